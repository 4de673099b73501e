"""Turns step scores and a trajectory score into one number (ReasonFlux-PRM, arXiv 2506.18896).

Knows arrays and scores, no tokens and no text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice
from rfprm_runtime.types import TrajectoryScore

StepAggregation = Literal["mean", "min", "last", "product"]
Aggregation = Literal["reward", "trajectory", "mean", "min", "last", "product"]
"""How a trajectory's scores become one number to rank by: Eq. 11, the trajectory score alone, or
the mean, the lowest, the last or the product of its step scores."""
_OR_A_FUNCTION = " or a function"


def trajectory_reward(
    step_scores: NDArray[np.float32], trajectory_score: float | None, alpha: float
) -> float:
    """Eq. 11: r̂ = mean_t r̂_t + α · r̂_final, within :attr:`Manifest.reward_bounds`: [0, 1 + α]
    if both are probabilities.

    ``step_scores`` float32 [T]. Without a trajectory readout (``trajectory_score`` is None) the
    reward is the mean of the step scores alone; for a reward model of whole sequences (T = 0) it is
    the trajectory score alone, without α.
    """
    if not len(step_scores):
        assert trajectory_score is not None
        return trajectory_score
    # float64 sums make the mean independent of how numpy splits a float32 reduction.
    mean = float(np.mean(step_scores, dtype=np.float64))
    return mean if trajectory_score is None else mean + alpha * trajectory_score


def aggregate_steps(
    step_scores: NDArray[np.float32],
    how: StepAggregation | Callable[[NDArray[np.float32]], float] = "mean",
) -> float:
    """One number for ``step_scores``, float32 [T] with T >= 1, of a whole trace or of one so far.

    A callable gets the array. Raises ``ValueError`` for an unknown name and for a result of NaN.
    """
    if callable(how):
        return _checked(how(step_scores), how)
    check_choice("aggregation", how, get_args(StepAggregation), more=_OR_A_FUNCTION)
    values = step_scores.astype(np.float64)
    if how == "mean":
        return float(values.mean())
    if how == "min":
        return float(values.min())
    if how == "product":
        return float(values.prod())
    return float(values[-1])


def aggregate(
    score: TrajectoryScore, how: Aggregation | Callable[[TrajectoryScore], float] = "reward"
) -> float:
    """One number for a scored trajectory; higher is better.

    A callable gets the :class:`TrajectoryScore`. Raises ``ValueError`` for an unknown name, for
    ``trajectory`` if the PRM has no such readout, and for a result of NaN.
    """
    if callable(how):
        return _checked(how(score), how)
    check_aggregation("aggregation", how)
    if how == "reward":
        return score.reward
    if how != "trajectory":
        return aggregate_steps(score.step_scores, how)
    if score.trajectory_score is None:
        raise InvalidArgumentError(
            "this PRM has no trajectory score; rank by 'reward', 'mean' or 'min'"
        )
    return score.trajectory_score


def check_aggregation(name: str, how: object, manifest: Manifest | None = None) -> None:
    """Raises ``ValueError`` if the setting ``name`` is neither an :data:`Aggregation` nor a
    function, or asks for the trajectory score of a PRM (``manifest``) that has none."""
    if isinstance(how, type) or not callable(how):
        check_choice(name, how, get_args(Aggregation), more=_OR_A_FUNCTION)
    if how == "trajectory" and manifest is not None and manifest.trajectory_readout is None:
        raise InvalidArgumentError(
            f"{name} is 'trajectory', but the PRM {manifest.name!r} has no trajectory score; rank "
            "by 'reward', 'mean' or 'min'"
        )


def _checked(value: Any, how: object) -> float:
    number = float(value)
    if math.isnan(number):
        raise InvalidArgumentError(f"the aggregation {how!r} returned nan, which cannot be ranked")
    return number
