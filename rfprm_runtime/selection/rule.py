"""Which traces to choose: a pure function of numbers. Knows no texts and no files.

value → best of each question → threshold → quota of each group → share → top
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.scores.aggregation import Aggregation

LengthControl = Literal["none", "residual"]
# What can become of a trace, in the order of the rule's checks.
OUTCOMES = (
    "chosen",
    "not among the best of its question",
    "below the threshold",
    "over the quota of its group",
    "outside the share",
    "outside the top",
)


class Selection(Validated):
    """A rule; all limits that are given apply. Raises :class:`InvalidArgumentError`."""

    top: int | None = Field(default=None, ge=1)
    """Number of traces to keep in all."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Fraction of all scored traces to keep, rounded, at least one trace."""
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    """Lowest value to keep."""
    per_question: int | None = Field(default=None, ge=1)
    """Number of traces to keep per question."""
    top_per_group: int | None = Field(default=None, ge=1)
    """Number of traces to keep per group."""
    group_by: str | None = None
    """The field that names a row's group."""
    score: Aggregation = "reward"
    """The score to rank by."""
    length_control: LengthControl = "none"
    """``residual``: rank by how far the score lies above the least-squares line over the logarithm
    of the length in tokens."""

    @model_validator(mode="after")
    def _says_something(self) -> Selection:
        limits = (self.top, self.share, self.threshold, self.per_question, self.top_per_group)
        if all(limit is None for limit in limits):
            raise InvalidArgumentError(
                "the rule keeps every trace; give at least one limit: top (--top), share "
                "(--share), threshold (--threshold), per_question (--per-question) or "
                "top_per_group (--top-per-group)"
            )
        if (self.top_per_group is None) != (self.group_by is None):
            raise InvalidArgumentError(
                "top_per_group (--top-per-group) and group_by (--group-by) go together: how many "
                "traces, and the field that names their group; give both or neither"
            )
        return self

    @classmethod
    def build(cls, **fields: Any) -> Selection:
        """The constructor, for fields whose types are not known yet."""
        return cls(**fields)

    @classmethod
    def _refuse(cls, error: ValidationError) -> InvalidArgumentError:
        return InvalidArgumentError("; ".join(map(_in_our_words, error.errors(include_url=False))))


def _in_our_words(problem: ErrorDetails) -> str:
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}, expected some of {list(Selection.model_fields)}"
    expected = problem["msg"].removeprefix("Input should be ")
    if problem["type"].startswith(("greater_than", "less_than")):
        expected = f"a number {expected}"
    flag = name.replace("_", "-")
    return f"{name} (--{flag}) is {shown(problem['input'])}, expected {expected}"


@dataclass(frozen=True)
class Choice:
    """The outcome of a rule for N scored traces."""

    value: NDArray[np.float64]  # [N], by which they were ranked
    chosen: NDArray[np.int32]  # indices of the chosen traces, best first
    outcome: NDArray[np.uint8]  # [N], indices into OUTCOMES


def choose(
    rule: Selection,
    score: NDArray[np.float64],
    num_tokens: NDArray[np.int32],
    question: NDArray[np.uint64],
    group: NDArray[np.int32] | None = None,
) -> Choice:
    """Apply ``rule`` to N traces, all arrays [N]. On ties the earlier trace wins.

    A rule with ``top_per_group`` needs ``group``.
    """
    value = score if rule.length_control == "none" else length_residual(score, num_tokens)
    # 32 bits: for a million traces, a 64-bit array would take 8 MB.
    left = np.argsort(-value, kind="stable").astype(np.int32)
    outcome = np.zeros(len(value), dtype=np.uint8)

    def keep(kept: NDArray[Any], reason: int) -> NDArray[np.int32]:
        outcome[left[~kept]] = reason
        remaining: NDArray[np.int32] = left[kept]
        return remaining

    if rule.per_question is not None:
        left = keep(_place_in_group(question[left]) < rule.per_question, 1)
    if rule.threshold is not None:
        left = keep(value[left] >= rule.threshold, 2)
    if rule.top_per_group is not None and group is not None:
        left = keep(_place_in_group(group[left]) < rule.top_per_group, 3)
    if rule.share is not None:
        left = keep(np.arange(len(left)) < max(1, round(rule.share * len(value))), 4)
    if rule.top is not None:
        left = keep(np.arange(len(left)) < rule.top, 5)
    return Choice(value, left, outcome)


def length_line(score: NDArray[np.float64], num_tokens: NDArray[np.int32]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line of ``score`` over log ``num_tokens``."""
    if not len(score):
        return 0.0, 0.0
    length = np.log(num_tokens.astype(np.float64))
    from_mean = length - length.mean()
    spread = float(np.sum(from_mean * from_mean))
    slope = float(np.sum(from_mean * (score - score.mean()))) / spread if spread > 0 else 0.0
    return float(score.mean()) - slope * float(length.mean()), slope


def length_residual(
    score: NDArray[np.float64], num_tokens: NDArray[np.int32]
) -> NDArray[np.float64]:
    """The part of each score that its length does not predict; its mean is 0."""
    intercept, slope = length_line(score, num_tokens)
    predicted: NDArray[np.float64] = intercept + slope * np.log(num_tokens.astype(np.float64))
    return score - predicted


def _place_in_group(group: NDArray[Any]) -> NDArray[np.int32]:
    """For each item, the number of items of its group that come before it."""
    by_group = np.argsort(group, kind="stable").astype(np.int32)
    starts = _starts_of_runs(group[by_group])
    counted = np.arange(len(group), dtype=np.int32)
    counted -= np.repeat(starts, np.diff(starts, append=np.int32(len(group))))
    place = np.empty(len(group), dtype=np.int32)
    place[by_group] = counted
    return place


def _starts_of_runs(values: NDArray[Any]) -> NDArray[np.int32]:
    """Indices where runs of equal neighbours begin."""
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = values[1:] != values[:-1]
    return np.flatnonzero(begins).astype(np.int32)
