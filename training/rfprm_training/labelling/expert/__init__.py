"""The expert LLM: a client of any OpenAI-compatible server, and what is asked of it."""
