"""What a caller may score: trajectories, rows, and pairs of a question and a model's text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError
from rfprm_runtime.traces.formats import Reading, read_trajectory
from rfprm_runtime.types import Trajectory

Scorable = Trajectory | Mapping[str, Any] | tuple[str, str] | RfprmError
"""A trajectory; a row (:func:`~rfprm_runtime.trajectory_from_record`); question and text; or an
error, which stands for what could not be read."""


def trajectory_of(item: Any) -> Trajectory | RfprmError:
    """The trajectory of ``item``, or why it is none."""
    if isinstance(item, (Trajectory, RfprmError)):
        return item
    try:
        if isinstance(item, Mapping):
            return read_trajectory(item, Reading(with_outcome=False))
        if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str):
            return Trajectory.from_text(*item)
    except InvalidTrajectoryError as error:
        return error
    return InvalidTrajectoryError(
        f"got {type(item).__name__}, expected a Trajectory, a row of fields, or a pair of question "
        "and text; build one with Trajectory(question=…, steps=[…])"
    )
