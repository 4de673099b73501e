"""Turns logits into scores, and scores into one number.

Knows the equations of the paper; knows no tokens and no text.
"""
