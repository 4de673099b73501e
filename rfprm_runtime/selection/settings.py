"""Settings besides the rule: how traces are scored, on which workers, and what is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from rfprm_runtime.ground.arguments import (
    check_choice,
    check_flag,
    check_not_negative,
    check_whole,
)
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.types import Overflow, windows_of

DEFAULT_SHARD_ROWS = 256
Order = Literal["input", "rank"]
"""Rows in input order, or best first."""


@dataclass(frozen=True)
class Scoring:
    """How traces are read and scored. Finished scores are reused only with the same settings.

    Raises :class:`InvalidArgumentError` for an unknown split or overflow, if ``shard_rows`` is not
    a whole number of at least 1, or ``score_prefixes`` not true or false.
    """

    split: SplitRule = "blank_lines"
    overflow: Overflow = "error"
    backend: str = "auto"
    backend_options: dict[str, Any] = field(default_factory=dict)
    """For :meth:`Scorer.load`: ``num_threads``, ``provider``, ``device``. Saved scores are reused
    only with the same options, except ``num_threads``, which changes no score."""
    shard_rows: int = DEFAULT_SHARD_ROWS
    """Rows scored and saved together; a kill costs at most this many."""
    score_prefixes: bool = False
    """For a reward model of whole sequences: make step scores, as :meth:`Scorer.load` does."""
    names: FieldNames = field(default_factory=FieldNames)
    """Which fields to read; by default they are found by their names."""

    def __post_init__(self) -> None:
        check_choice("split", self.split, get_args(SplitRule))
        windows_of(self.overflow)  # checks it
        check_whole("shard_rows (--shard-rows)", self.shard_rows)
        check_flag("score_prefixes (--score-prefixes)", self.score_prefixes)

    @property
    def reading(self) -> Reading:
        """How rows are read."""
        return Reading(self.split, names=self.names)


@dataclass(frozen=True)
class RayWorkers:
    """Score in actors on a Ray cluster, each with one copy of the model."""

    count: int
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        check_whole("count", self.count)
        check_whole("cpus_per_worker", self.cpus_per_worker)
        check_not_negative("gpus_per_worker", self.gpus_per_worker)


@dataclass(frozen=True)
class OutputOptions:
    """What the output holds, and what else is written.

    Raises :class:`InvalidArgumentError` for an unknown order.
    """

    order: Order = "input"
    prefix: str = ""
    """Prefix for the names of the added fields, if the input has fields of the same names."""
    sft: bool = False
    """Add ``messages`` for TRL's SFTTrainer."""
    report: Path | None = None
    """HTML page to write."""
    work: Path | None = None
    """Folder that keeps the scores; ``OUTPUT.work`` by default."""
    keep_work: bool = True
    """Keep the scores, so that another rule needs no model."""

    def __post_init__(self) -> None:
        check_choice("order", self.order, get_args(Order))
