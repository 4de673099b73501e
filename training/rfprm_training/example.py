"""A trajectory with what it should score: what the joint loss is taught."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rfprm_runtime.types import Trajectory

UNKNOWN = math.nan
"""Label of a step that nobody judged; it takes no part in the loss."""


@dataclass(frozen=True)
class Example:
    """A trajectory with its targets in [0, 1], or :data:`UNKNOWN`."""

    trajectory: Trajectory
    step_labels: tuple[float, ...]
    trajectory_label: float
    group: str
    """Trajectories to the same question share it: pairs are formed and splits made by group."""
    kind: str
    """``gold``, ``sampled`` (a real solution), or the kind of its constructed error."""
    held_out: bool = False
    """Whether its question is kept out of training."""

    @property
    def first_error(self) -> int | None:
        """Index of the first step labelled wrong; None where there is none."""
        wrong = (index for index, label in enumerate(self.step_labels) if label < 0.5)
        return next(wrong, None)
