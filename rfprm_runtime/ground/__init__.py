"""What everything else builds on: argument checks, text to steps, files that appear whole.

Knows no models and no scores.
"""
