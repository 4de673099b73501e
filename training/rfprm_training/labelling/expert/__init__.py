"""The expert LLM: a client of any OpenAI-compatible server, and what we ask it."""
