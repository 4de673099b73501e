"""Trajectories in, rewarded trajectories out.

Knows the components of a step's reward and who judges them (the verifier, an expert LLM), but no
network. Needs the extra ``data``.
"""
