"""The fields that scoring and selecting add to a row: their names, their values, and what may not
stand there already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rfprm_runtime.types import Overflow, TrajectoryScore

WINDOWED_FROM = "windowed_from"
GENERATION = "generation"
SCORE_FIELDS = ("step_scores", "trajectory_score", "reward", WINDOWED_FROM)
"""What ``rfprm score`` and ``rfprm select`` add, the last one with ``overflow="window"`` alone."""
SELECTION_FIELDS = ("selection_score", "rank", GENERATION)
"""What ``rfprm select`` adds besides, the last one where rows hold several generations."""


def score_fields(overflow: Overflow) -> tuple[str, ...]:
    """Those that a score has with this ``overflow``."""
    return SCORE_FIELDS if overflow == "window" else SCORE_FIELDS[:-1]


def prefixed(names: Iterable[str], prefix: str) -> dict[str, str]:
    """The names under which fields are written, by their own."""
    return {name: prefix + name for name in names}


def first_taken(fields: Iterable[str], added: Iterable[str]) -> str | None:
    """The first of the ``added`` names, by the alphabet, that is among ``fields`` already."""
    return min(set(fields) & set(added), default=None)


def values_of(score: TrajectoryScore) -> dict[str, Any]:
    """What is written of a score, by the fields' own names."""
    return score.model_dump(include=set(SCORE_FIELDS))
