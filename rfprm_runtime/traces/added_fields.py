"""The fields that scoring and selection add to a row: their names, their values, and clashes with
fields that the row already has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rfprm_runtime.types import TrajectoryScore

SCORE_FIELDS = ("step_scores", "trajectory_score", "reward")
"""What ``rfprm score`` and ``rfprm select`` add."""
WINDOWED_FROM = "windowed_from"
"""What they add where traces may be scored in windows."""
FIRST_ERROR = "first_error"
"""What ``rfprm score --first-error`` adds."""
SELECTION_FIELDS = ("selection_score", "rank")
"""What ``rfprm select`` adds to those."""
RANKING_FIELDS = ("final_answer", "votes", "selection_score", "rank")
"""What ``rfprm rerank`` adds to those; ``votes`` only after a vote."""
GENERATION = "generation"
"""What it adds if a row holds several generations."""


def prefixed(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Each field's own name, with the name it is written under."""
    return {name: prefix + name for name in names}


def first_taken(fields: Iterable[str], added: Iterable[str]) -> str | None:
    """The alphabetically first of the ``added`` names that ``fields`` already has."""
    return min(set(fields) & set(added), default=None)


def values_of(score: TrajectoryScore) -> dict[str, Any]:
    """The values of a score that are written, by the fields' own names."""
    return score.model_dump(include={*SCORE_FIELDS, WINDOWED_FROM})
