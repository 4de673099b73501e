"""Figures for step scores: first errors, step classification, calibration. Pure.

Thresholds are cross-fitted: the questions are split into ten folds, and each fold is measured with
the best threshold for the other nine. So no threshold is chosen on the data it is measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_training import TrainingError
from rfprm_training.evaluation.metrics import FirstError, StepScores, first_error_accuracy

FloatArray = NDArray[np.float64]

NUM_FOLDS = 10
_NUM_THRESHOLDS = 199
_GAIN_OF_EXACT = 0.01
_NUM_BINS = 10
_MIN_FOR_CALIBRATION = 4 * _NUM_BINS


@dataclass(frozen=True)
class Search:
    """Where a threshold is looked for, and the one to take where there is nothing to choose by."""

    low: float
    high: float
    undecided: float


PROBABILITIES = Search(0.0, 1.0, 0.5)


@dataclass(frozen=True)
class StepClassification:
    """How well steps are classified as right or wrong (PRMBench, arXiv 2501.03124)."""

    f1_right: float
    f1_wrong: float
    accuracy: float
    num_steps: int
    num_wrong: int

    @property
    def prm_score(self) -> float:
        """PRMBench's score: the mean of both F1."""
        return (self.f1_right + self.f1_wrong) / 2


def folds(groups: Sequence[str]) -> NDArray[np.int64]:
    """The fold in [0, 10) of each trajectory, int64 [N]; a question is in one fold only."""
    digests = [hashlib.sha256(group.encode()).digest()[:4] for group in groups]
    return np.array(
        [int.from_bytes(digest, "big") % NUM_FOLDS for digest in digests], dtype=np.int64
    )


def cross_fitted_first_error(
    step_scores: StepScores,
    first_errors: Sequence[int | None],
    groups: Sequence[str],
    search: Search = PROBABILITIES,
) -> tuple[FirstError, NDArray[np.float64]]:
    """First-error accuracy over all trajectories, and the threshold of each, float64 [N].

    If all questions are in one fold, there is nothing to choose by, and the threshold is the
    undecided score of ``search``.
    """

    def best(chosen: NDArray[np.int64]) -> float:
        scores = [step_scores[i] for i in chosen]
        truth = [first_errors[i] for i in chosen]
        return best_first_error_threshold(scores, truth, search)

    thresholds = _cross_fitted(best, folds(groups))
    return first_error_accuracy(step_scores, first_errors, thresholds), thresholds


def best_first_error_threshold(
    step_scores: StepScores, first_errors: Sequence[int | None], search: Search = PROBABILITIES
) -> float:
    """The threshold with the highest F1, or with the highest known share if all trajectories are
    right or all are wrong: see :func:`_best_threshold`."""
    # A trajectory is a hit for thresholds in (low, high]: the first step below is the wrong one.
    low, high, wrong = [], [], []
    for scores, error in zip(step_scores, first_errors, strict=True):
        values = scores.astype(np.float64)
        before = values if error is None else values[:error]
        low.append(-np.inf if error is None else values[error])
        high.append(before.min(initial=np.inf))
        wrong.append(error is not None)
    ends = np.array([low, high]).T
    is_wrong = np.array(wrong, dtype=np.bool_)

    def worth(thresholds: FloatArray) -> FloatArray:
        thresholds = thresholds.astype(np.float32)  # as scores are compared with them
        located = _share_of_hits(ends[is_wrong], thresholds)
        accepted = _share_of_hits(ends[~is_wrong], thresholds)
        if not is_wrong.any() or is_wrong.all():
            return accepted if not is_wrong.any() else located
        total = located + accepted
        found: FloatArray = 2 * located * accepted / np.where(total > 0, total, 1)
        return found

    return _best_threshold(worth, np.concatenate([*step_scores, []]), search)


def _share_of_hits(ends: FloatArray, thresholds: FloatArray) -> FloatArray:
    """For each threshold, the share of the intervals (low, high] that it lies in."""
    total, ends = len(ends), ends[ends[:, 0] < ends[:, 1]]
    begun = np.searchsorted(np.sort(ends[:, 0]), thresholds, side="left")
    ended = np.searchsorted(np.sort(ends[:, 1]), thresholds, side="left")
    found: FloatArray = (begun - ended) / max(total, 1)
    return found


def _cross_fitted(
    best: Callable[[NDArray[np.int64]], float], fold_of: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The threshold of each item: the best for the items of the other folds."""
    thresholds = np.zeros(len(fold_of))
    for fold in np.unique(fold_of):
        thresholds[fold_of == fold] = best(np.flatnonzero(fold_of != fold))
    return thresholds


def cross_fitted_classification(
    scores: FloatArray,
    right: NDArray[np.bool_],
    groups: Sequence[str],
    search: Search = PROBABILITIES,
) -> StepClassification:
    """Step classification over all steps; ``groups`` holds the question of each step."""

    def best(chosen: NDArray[np.int64]) -> float:
        of_right, of_wrong = (
            np.sort(scores[chosen][right[chosen] == kind]) for kind in (True, False)
        )

        def prm_score(thresholds: FloatArray) -> FloatArray:
            missed = np.searchsorted(of_right, thresholds, side="left")
            caught = np.searchsorted(of_wrong, thresholds, side="left")
            kept, passed = len(of_right) - missed, len(of_wrong) - caught
            f1_right = 2 * kept / np.maximum(kept + passed + len(of_right), 1)
            f1_wrong = 2 * caught / np.maximum(caught + missed + len(of_wrong), 1)
            found: FloatArray = (f1_right + f1_wrong) / 2
            return found

        return _best_threshold(prm_score, scores[chosen], search)

    return classify_steps(scores >= _cross_fitted(best, folds(groups)), right)


def classify_steps(predicted: NDArray[np.bool_], right: NDArray[np.bool_]) -> StepClassification:
    """F1 of both classes; 0 for a class that neither occurs nor was predicted."""
    return StepClassification(
        f1_right=_f1(predicted, right),
        f1_wrong=_f1(~predicted, ~right),
        accuracy=float((predicted == right).mean()) if len(right) else float("nan"),
        num_steps=len(right),
        num_wrong=int((~right).sum()),
    )


def _f1(predicted: NDArray[np.bool_], actual: NDArray[np.bool_]) -> float:
    both = int((predicted & actual).sum())
    total = int(predicted.sum()) + int(actual.sum())
    return 2 * both / total if total else 0.0


def _best_threshold(
    figure: Callable[[FloatArray], FloatArray], scores: FloatArray, search: Search
) -> float:
    """Of 199 round thresholds between the ends of ``search`` the best one by ``figure``, which
    gives the value of each. Between neighbouring ``scores`` there may be a better one: it is taken
    where it gains more than 0.01, as it does where scores crowd together, and otherwise would
    mostly fit chance. The score that is undecided if none has a value."""
    grid = np.linspace(search.low, search.high, _NUM_THRESHOLDS + 2)[1:-1]
    observed = np.unique(scores)
    between = (observed[1:] + observed[:-1]) / 2
    round_one, its_value = _middle_of_best(grid, figure(grid))
    exact_one, exact_value = _middle_of_best(between, figure(between))
    if max(its_value, exact_value) <= 0:
        return search.undecided
    return exact_one if exact_value > its_value + _GAIN_OF_EXACT else round_one


def _middle_of_best(thresholds: FloatArray, values: FloatArray) -> tuple[float, float]:
    """With its value; one at the edge would be best by chance."""
    if not len(thresholds):
        return 0.0, 0.0
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(thresholds[best[len(best) // 2]]), float(values.max())


@dataclass(frozen=True)
class Calibration:
    """How far scores are from the frequencies they claim."""

    ece: float
    """Expected calibration error: mean |claimed − found| over bins of equal size."""
    brier: float
    claimed: tuple[float, ...]
    """Mean score of each bin."""
    found: tuple[float, ...]
    """Share of right items in each bin."""


def calibration(scores: FloatArray, right: NDArray[np.bool_]) -> Calibration | None:
    """ECE with bins of equal size, Brier score, and the points of a reliability plot.

    None for fewer than 40 scores, which are too few to estimate frequencies.
    """
    if len(scores) < _MIN_FOR_CALIBRATION:
        return None
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, _NUM_BINS)
    claimed = np.array([scores[members].mean() for members in bins])
    found = np.array([right[members].mean() for members in bins])
    sizes = np.array([len(members) for members in bins])
    return Calibration(
        ece=float((np.abs(claimed - found) * sizes).sum() / sizes.sum()),
        brier=float(((scores - right) ** 2).mean()),
        claimed=tuple(claimed.tolist()),
        found=tuple(found.tolist()),
    )


class CannotCalibrateError(TrainingError, ValueError):
    """The scores and outcomes do not determine a temperature."""


def fit_temperature(logits: FloatArray, right: NDArray[np.bool_]) -> tuple[float, float]:
    """Temperature and bias that minimise the log loss of σ(logit / temperature + bias).

    Fits a logistic regression by Newton's method; a ridge of 1e-6 keeps separable data finite.
    Raises :class:`CannotCalibrateError` if all outcomes are the same, or if the scores do not rise
    with them.
    """
    if right.all() or not right.any():
        raise CannotCalibrateError(
            "calibration needs right and wrong trajectories, but all have the same outcome"
        )
    scale = max(float(np.std(logits)), 1e-12)
    x = np.stack([logits / scale, np.ones_like(logits)], axis=1)
    weights = np.zeros(2)
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
        gradient = x.T @ (chance - right) + 1e-6 * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    slope = weights[0] / scale
    if slope <= 0:
        raise CannotCalibrateError(
            "the scores do not rise with the outcome, so there is nothing to calibrate"
        )
    return float(1 / slope), float(weights[1])
