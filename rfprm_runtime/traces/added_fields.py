"""The fields that scoring and selecting add to a row: their names, their values, and what may not
stand there already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rfprm_runtime.types import TrajectoryScore

SCORE_FIELDS = ("step_scores", "trajectory_score", "reward")
"""What ``rfprm score`` and ``rfprm select`` add."""
WINDOWED_FROM = "windowed_from"
"""What they add with ``overflow="window"``."""
SELECTION_FIELDS = ("selection_score", "rank")
"""What ``rfprm select`` adds besides."""
GENERATION = "generation"
"""What it adds where a row holds several generations."""


def prefixed(names: Iterable[str], prefix: str) -> dict[str, str]:
    """The names under which fields are written, by their own."""
    return {name: prefix + name for name in names}


def first_taken(fields: Iterable[str], added: Iterable[str]) -> str | None:
    """The first of the ``added`` names, by the alphabet, that is among ``fields`` already."""
    return min(set(fields) & set(added), default=None)


def values_of(score: TrajectoryScore) -> dict[str, Any]:
    """What is written of a score, by the fields' own names."""
    return score.model_dump(include={*SCORE_FIELDS, WINDOWED_FROM})
