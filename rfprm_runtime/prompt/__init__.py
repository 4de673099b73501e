"""Trajectories to token rows: rendered as the manifest says, encoded piece by piece, windowed.

Knows tokenizers and markers; knows no model and no scores.
"""
