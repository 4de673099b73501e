"""What a selection reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.traces.tally import Tally


@dataclass(frozen=True)
class RightShare:
    """How many traces are right, of those whose rows know it."""

    num_known: int
    num_right: int

    @classmethod
    def of(cls, verdicts: NDArray[np.float32]) -> RightShare:
        """``verdicts``: 1, 0, or NaN where nothing is known."""
        return cls(int((~np.isnan(verdicts)).sum()), int(np.nansum(verdicts)))

    def __str__(self) -> str:
        share = f"{self.num_right / self.num_known:.1%}" if self.num_known else "none"
        return f"{share} of {self.num_known:,}"


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
    right_scored: RightShare | None = None
    """Of the scored traces, and below of the chosen ones: None without a report, or if no row knows
    its outcome or its answer."""
    right_chosen: RightShare | None = None
    first_errors: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    """Which fields the scored traces were read from."""
