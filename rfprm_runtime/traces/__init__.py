"""The one way in: rows of files and data sets, read as records that each hold a trajectory.

Knows file formats, field names and thinking tags. Knows no tokens, models or scores.
"""
