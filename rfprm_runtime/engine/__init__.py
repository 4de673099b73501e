"""Token rows in, logits at their markers out: passes, threads, pasts and lifetime.

Knows no text, no scores and no particular backend.
"""
