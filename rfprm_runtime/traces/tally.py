"""What was read from where, counted over many traces, and what that gives cause to say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rfprm_runtime.ground.parsing import split_steps
from rfprm_runtime.traces.record import Record
from rfprm_runtime.types import Trajectory

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
        [step, *more] = trajectory.steps
        has_lines = not more and record.reading.split == "blank_lines"
        self.num_one_step += has_lines and len(split_steps(step, "lines")) > 1

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


def _share(count: int, total: int) -> str:
    return "" if count == total else f" ({count:,} of {total:,} traces)"
