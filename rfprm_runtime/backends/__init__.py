"""The backends: integers in, logits at marker rows out. ``table`` lists them.

Each knows token ids and marker positions; none knows text, steps or rewards.
"""
