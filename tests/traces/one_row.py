"""A row without a file around it."""

from __future__ import annotations

from typing import Any

from rfprm_runtime import InvalidTrajectoryError, Trajectory
from rfprm_runtime.traces.record import Place, Record


def trajectories_of(row: dict[str, Any]) -> list[Trajectory | InvalidTrajectoryError]:
    """One for each trace of a row."""
    return [trace.trajectory for trace in Record(Place("rows.jsonl", "line", 1), row).each()]
