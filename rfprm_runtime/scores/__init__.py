"""Logits to scores, and scores to one number.

Knows the equations of the paper; knows no tokens and no text.
"""
