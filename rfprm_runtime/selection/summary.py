"""What a selection reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rfprm_runtime.traces.tally import Tally


@dataclass
class SelectionSummary:
    """What became of the rows of an input."""

    errors_path: Path
    work_path: Path
    num_rows: int = 0
    num_scored: int = 0
    num_failed: int = 0
    num_chosen: int = 0
    num_shards: int = 0
    num_shards_reused: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many scored traces were chosen, and how many were rejected for which reason."""
    first_errors: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    """Which fields the scored traces were read from."""
