"""A trajectory, ready to run: encoded, checked against the model's positions, cut into windows.

Whatever cannot be scored is found here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.prompt.encoding import EncodedTrajectory, TrajectoryEncoder
from rfprm_runtime.prompt.windowing import WindowPlan, check_length, plan_windows
from rfprm_runtime.types import Trajectory, Windows


@dataclass(frozen=True)
class Prepared:
    """An encoded trajectory, and the rows it becomes to fit the model."""

    row: EncodedTrajectory
    rows: list[TokenRow]
    """Of the prefixes if they are scored, then the windows of the whole."""
    num_prefixes: int
    windowed_from: int | None

    @property
    def num_run_tokens(self) -> int:
        """Of all rows; what they repeat counts each time."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_step_scores(self) -> int:
        """The first so many markers of its rows are those of steps, or of prefixes."""
        return self.num_prefixes or self.row.num_step_markers


def prepare(
    trajectory: Trajectory,
    encoder: TrajectoryEncoder,
    manifest: Manifest,
    *,
    windows: Windows | None,
    score_prefixes: bool,
) -> Prepared:
    """Raises :class:`TraceTooLongError` if it does not fit, or not even in ``windows`` if they are
    allowed, and :class:`InvalidTrajectoryError` for a text that cannot be encoded."""
    limit, engine_of = manifest.max_positions, manifest.positions_beyond_engine
    row = encoder.encode(trajectory)
    if windows is None:
        check_length(row.num_tokens, limit, engine_of=engine_of)
    whole = plan_windows(row, limit, windows, engine_of=engine_of)
    if not score_prefixes:
        return Prepared(row, whole.rows, 0, whole.windowed_from)
    prefixes = [plan_windows(prefix, limit) for prefix in _prefixes(trajectory, encoder)]
    rows = [row for plan in (*prefixes, whole) for row in plan.rows]
    return Prepared(row, rows, len(prefixes), _first_windowed([*prefixes, whole]))


def _prefixes(trajectory: Trajectory, encoder: TrajectoryEncoder) -> Iterator[EncodedTrajectory]:
    """The trace after each step, as if it ended there."""
    for end in range(1, len(trajectory.steps) + 1):
        yield encoder.encode(Trajectory(question=trajectory.question, steps=trajectory.steps[:end]))


def _first_windowed(plans: list[WindowPlan]) -> int | None:
    """The first step whose prefix did not fit; the number of steps if only the whole did not."""
    windowed = (index for index, plan in enumerate(plans) if plan.windowed_from is not None)
    return next(windowed, None)
