"""What was read from where, counted over many traces, and what that gives cause to say."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rfprm_runtime.ground.parsing import SplitRule, split_steps
from rfprm_runtime.traces.record import Record
from rfprm_runtime.types import Trajectory

_logger = logging.getLogger(__name__)
_noted: list[bool] = []
_MOST = 0.5
_MAX_READINGS = 5


@dataclass
class Tally:
    """Counts of scored traces. Can be added, and stored as JSON."""

    readings: Counter[str] = field(default_factory=Counter)
    """How many were read from which fields, in words."""
    num_one_step: int = 0
    """How many are one step of several lines."""

    def count(self, record: Record, trajectory: Trajectory) -> None:
        if record.read_from is not None:
            self.readings[record.read_from] += 1
        self.num_one_step += is_one_step_of_lines(trajectory, record.reading.split)

    def __iadd__(self, other: Tally) -> Tally:
        self.readings += other.readings
        self.num_one_step += other.num_one_step
        return self

    def sentences(self) -> list[str]:
        """What a user should know: the fields that were read, and steps that may be too long."""
        total = self.readings.total()
        most = self.readings.most_common(_MAX_READINGS)
        said = [f"read {words}{_share(count, total)}" for words, count in most]
        if len(self.readings) > _MAX_READINGS:
            said.append(f"and from {len(self.readings) - _MAX_READINGS} other sets of fields")
        if self.num_one_step > _MOST * total:
            said.append(
                f"{self.num_one_step:,} of {total:,} traces are a single step of several lines; "
                "--split lines makes each line a step"
            )
        return said

    def as_json(self) -> dict[str, Any]:
        return {"readings": dict(self.readings), "num_one_step": self.num_one_step}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> Tally:
        return cls(Counter(content["readings"]), content["num_one_step"])


def is_one_step_of_lines(trajectory: Trajectory, split: SplitRule) -> bool:
    """Whether splitting at lines would give more than the one step that there is."""
    [step, *more] = trajectory.steps
    return split == "blank_lines" and not more and len(split_steps(step, "lines")) > 1


def note_single_steps(trajectories: Sequence[object], split: SplitRule) -> None:
    """Log, once in a process, that most of ``trajectories`` are a single step of several lines."""
    found = [item for item in trajectories if isinstance(item, Trajectory)]
    count = sum(is_one_step_of_lines(item, split) for item in found)
    if count > _MOST * len(found) and not _noted:
        _noted.append(True)
        _logger.warning(
            "%d of %d traces are a single step of several lines; split='lines' makes each line a "
            "step",
            count,
            len(found),
        )


def _share(count: int, total: int) -> str:
    return "" if count == total else f" ({count:,} of {total:,} traces)"
