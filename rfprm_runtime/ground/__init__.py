"""What everything else stands on: checks of arguments, text to steps, files that appear whole.

Knows no models and no scores.
"""
