"""Turns step scores and a trajectory score into one number (ReasonFlux-PRM, arXiv 2506.18896).

Knows arrays and scores, no tokens and no text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice
from rfprm_runtime.scores.bounds import Bounds, are_probabilities, step_bounds, unit_scale
from rfprm_runtime.types import TrajectoryScore

StepAggregation = Literal["mean", "min", "last", "product"]
Aggregation = Literal["reward", "trajectory", "mean", "min", "last", "product"]
"""How a trajectory's scores become one number to rank by: Eq. 11, the trajectory score alone, or
the mean, the lowest, the last or the product of its step scores."""
Weigh = Callable[[float], float]
_OR_A_FUNCTION = " or a function"
SCORE_PREFIXES = "score the trace after each step with score_prefixes=True (--score-prefixes)"
"""How a reward model of whole sequences comes by step scores."""
_INSTEAD = f"use 'reward', or {SCORE_PREFIXES}"
_NO_PRODUCT = "a product needs probabilities; use 'mean', 'min' or 'last'"


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
    """One number for ``step_scores``, float32 [T], of a whole trace or of one so far.

    A callable gets the array. Raises ``ValueError`` for an unknown name, if there are no step
    scores, for the product of scores outside [0, 1], and for a result of NaN.
    """
    if callable(how):
        return _checked(how(step_scores), how)
    check_choice("aggregation", how, get_args(StepAggregation), more=_OR_A_FUNCTION)
    if not len(step_scores):
        raise InvalidArgumentError(f"there are no step scores to take the {how!r} of; {_INSTEAD}")
    if how == "product" and not (step_scores.min() >= 0 and step_scores.max() <= 1):
        ends = f"{step_scores.min():g} and {step_scores.max():g}"
        raise InvalidArgumentError(f"step scores lie between {ends}; {_NO_PRODUCT}")
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
    ``trajectory`` if the PRM has no such readout, for what :func:`aggregate_steps` refuses, and for
    a result of NaN.
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


def value_bounds(manifest: Manifest, how: Aggregation) -> Bounds:
    """Of what ``how`` makes of a trajectory's scores."""
    if how == "reward":
        return manifest.reward_bounds
    if how == "trajectory":
        return None if manifest.trajectory_readout is None else manifest.trajectory_readout.bounds
    return (0.0, 1.0) if how == "product" else step_bounds(manifest)


def weighing(manifest: Manifest | None, how: object) -> Weigh:
    """What a candidate adds to the votes for its answer, by its value under ``how``.

    The value itself, unless it can be negative, since a vote must never count against the answer it
    is for: then :func:`~rfprm_runtime.scores.bounds.unit_scale`. The values of a function, and of a
    scorer without a manifest, stay as they are.
    """
    if manifest is None or callable(how):
        return float
    bounds = value_bounds(manifest, how)  # type: ignore[arg-type]
    if bounds is not None and bounds[0] >= 0:
        return float
    return partial(_on_unit_scale, bounds)


def _on_unit_scale(bounds: Bounds, value: float) -> float:
    return float(unit_scale(value, bounds))


def check_aggregation(
    name: str, how: object, manifest: Manifest | None = None, *, score_prefixes: bool = False
) -> None:
    """Raises ``ValueError`` if the setting ``name`` is neither an :data:`Aggregation` nor a
    function, or if the PRM of ``manifest``, loaded with ``score_prefixes``, does not have the
    scores it needs. What a function needs is not known."""
    if isinstance(how, type) or not callable(how):
        check_choice(name, how, get_args(Aggregation), more=_OR_A_FUNCTION)
    if manifest is None or how == "reward" or callable(how):
        return
    prm = f"{name} is {how!r}, but the PRM {manifest.name!r}"
    if how == "trajectory":
        if manifest.trajectory_readout is None:
            raise InvalidArgumentError(
                f"{prm} has no trajectory score; rank by 'reward', 'mean' or 'min'"
            )
    elif manifest.step_readout is None and not score_prefixes:
        raise InvalidArgumentError(f"{prm} has no step scores; {_INSTEAD}")
    elif how == "product" and not are_probabilities(step_bounds(manifest)):
        raise InvalidArgumentError(f"{prm} has step scores outside [0, 1]; {_NO_PRODUCT}")


def _checked(value: Any, how: object) -> float:
    number = float(value)
    if math.isnan(number):
        raise InvalidArgumentError(f"the aggregation {how!r} returned nan, which cannot be ranked")
    return number
