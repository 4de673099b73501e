"""Whether the method pays: what picking, searching, selecting and rewarding by our scores brings.

Each module answers one question, says how to run it, resumes, and writes JSON beside what it made;
``--keep`` writes it to ``experiments/results``.
"""

from pathlib import Path

RESULTS = Path("experiments/results")
