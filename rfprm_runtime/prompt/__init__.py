"""Turns trajectories into token rows: renders, encodes piece by piece, and splits into windows.

Knows tokenizers and markers; knows no model and no scores.
"""
