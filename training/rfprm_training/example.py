"""A trajectory with the scores it should get: the input of the joint loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rfprm_runtime.types import Trajectory

UNKNOWN = math.nan
"""Label of a step that nobody judged; the loss ignores it."""


@dataclass(frozen=True)
class Example:
    """A trajectory with its targets in [0, 1], or :data:`UNKNOWN`."""

    trajectory: Trajectory
    step_labels: tuple[float, ...]
    trajectory_label: float
    group: str
    """Shared by trajectories to the same question; pairs and splits are made by group."""
    kind: str
    """``gold``, ``sampled`` (a real solution), …, or the kind of its constructed error."""
    held_out: bool = False
    """Whether its question is held out of training."""

    @property
    def first_error(self) -> int | None:
        """Index of the first step labelled wrong, or None."""
        wrong = (index for index, label in enumerate(self.step_labels) if label < 0.5)
        return next(wrong, None)

    @property
    def has_wrong_step(self) -> bool:
        return self.first_error is not None

    @property
    def knows_first_error(self) -> bool:
        """Whether the labels tell where the trajectory goes wrong first, or that it does not: steps
        that nobody judged may be wrong, too."""
        place = self.first_error
        return not any(map(math.isnan, self.step_labels[:place]))
