"""What ``scripts/time_growth.py`` measures: shapes of text, and every public function that takes
text."""
