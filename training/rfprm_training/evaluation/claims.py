"""What scores claim, on whatever scale a PRM gives them: probabilities, log-odds and thresholds.

Knows readouts and numbers, no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Calibration, Manifest, Readout
from rfprm_runtime.scores.bounds import unit_scale
from rfprm_runtime.scores.first_error import undecided_score
from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.step_metrics import Search
from rfprm_training.example import Example

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Claims:
    """How to read the scores of one readout; without one they are probabilities.

    A scaled score is brought back to its probability. A raw one is the log-odds itself, as a
    calibration takes it to be.
    """

    readout: Readout | None = None

    @classmethod
    def of_steps(cls, manifest: Manifest | None) -> Claims:
        """The steps of a reward model of whole sequences, if it has any, are scored prefixes."""
        if manifest is None:
            return cls()
        return cls(manifest.step_readout or manifest.trajectory_readout)

    @classmethod
    def of_trajectories(cls, manifest: Manifest | None) -> Claims:
        return cls(None if manifest is None else manifest.trajectory_readout)

    @property
    def are_raw(self) -> bool:
        return self.readout is not None and self.readout.bounds is None

    @property
    def undecided(self) -> float:
        """The score that claims a chance of one half."""
        return undecided_score(self.readout)

    def ends(self, scores: Sequence[NDArray[Any]]) -> tuple[float, float]:
        """Between which a threshold is looked for: the bounds, or what ``scores`` span."""
        bounds = (0.0, 1.0) if self.readout is None else self.readout.bounds
        if bounds is not None:
            return bounds
        low, high = min(float(x.min()) for x in scores), max(float(x.max()) for x in scores)
        return (low, high) if low < high else (low - 0.5, high + 0.5)

    def search(self, scores: Sequence[NDArray[Any]]) -> Search:
        """Where to look for a threshold of ``scores``."""
        return Search(*self.ends(scores), self.undecided)

    def probabilities(self, scores: Any) -> FloatArray:
        """float64, in the shape of ``scores``."""
        values = self._unscaled(scores)
        return unit_scale(values, None) if self.are_raw else values

    def log_odds(self, scores: Any) -> FloatArray:
        """float64, in the shape of ``scores``; of a probability of 0 or 1 a large finite number."""
        values = self._unscaled(scores)
        if self.are_raw:
            return values
        clipped = np.clip(values, 1e-6, 1 - 1e-6)
        return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float64)

    def calibrated(self, scores: Any, fitted: Calibration | None) -> FloatArray:
        """What the readout gives instead once ``fitted`` is part of it, float64 in the shape of
        ``scores``. A raw score becomes a probability."""
        if fitted is None:
            return np.asarray(scores, dtype=np.float64)
        chances = unit_scale(self.log_odds(scores) / fitted.temperature + fitted.bias, None)
        if self.readout is None or self.are_raw:
            return chances
        return np.asarray(chances * self.readout.scale + self.readout.offset, dtype=np.float64)

    def _unscaled(self, scores: Any) -> FloatArray:
        values = np.asarray(scores, dtype=np.float64)
        if self.readout is None or (self.readout.scale, self.readout.offset) == (1.0, 0.0):
            return values
        return np.asarray((values - self.readout.offset) / self.readout.scale, dtype=np.float64)


class Readings(Protocol):
    """How a PRM reads its scores: a checkpoint, or the manifest of an artifact."""

    @property
    def step_readout(self) -> Readout | None: ...

    @property
    def trajectory_readout(self) -> Readout | None: ...

    @property
    def alpha(self) -> float: ...


def as_calibrated(score: TrajectoryScore, prm: Readings) -> TrajectoryScore:
    """A score of a fold's PRM, which is not calibrated, read as ``prm`` reads its own."""
    steps = _read_as(prm.step_readout, score.step_scores).astype(np.float32)
    changes: dict[str, Any] = {"step_scores": steps}
    if score.trajectory_score is not None:
        whole = float(_read_as(prm.trajectory_readout, score.trajectory_score))
        changes["trajectory_score"] = whole
        if len(steps):
            changes["reward"] = float(steps.mean()) + prm.alpha * whole
    return score.model_copy(update=changes)


def _read_as(readout: Readout | None, scores: Any) -> FloatArray:
    if readout is None:
        return np.asarray(scores, dtype=np.float64)
    before = readout.model_copy(update={"calibration": None})
    return Claims(before).calibrated(scores, readout.calibration)


def have_steps(scores: Sequence[TrajectoryScore | None]) -> bool:
    """False for the scores of a reward model of whole sequences."""
    return all(score is None or len(score.step_scores) > 0 for score in scores)


def step_scores_of(
    example: Example, score: TrajectoryScore | None, highest: float
) -> NDArray[np.float32]:
    """The step scores; a trajectory without a score counts as all right, with ``highest``."""
    if score is None:
        return np.full(len(example.trajectory.steps), highest, np.float32)
    return score.step_scores
