"""Token rows in, logits at their markers out: passes, threads, pasts and who may still call.

Knows no text, no scores and no particular backend.
"""
