"""Figures of merit as pure functions over arrays, with confidence intervals by bootstrap.

``scores`` is float [n], ``right`` is bool [n], and ``groups`` int [n] gives the question of each
solution. Knows no models and no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.scores.first_error import first_below

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Groups = NDArray[np.int64]
Weights = NDArray[np.float64]
StepScores = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def with_ends(self) -> list[float]:
        """The value and the ends of its interval, as results keep them."""
        return [self.value, self.low, self.high]

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def auc(scores: Scores, right: Flags) -> float:
    """Chance that a right solution scores higher than a wrong one, with ties counting half; NaN
    unless there are both."""
    won, pairs = _won_pairs(scores[right], scores[~right])
    return won / pairs if pairs else float("nan")


def within_group_auc(scores: Scores, right: Flags, groups: Groups) -> float:
    """AUC over pairs of solutions to the same question, so that the difficulty of questions, which
    length alone reveals, does not count. NaN if no question has both kinds."""
    return pairs_won(rankings(scores, right, groups))


def misled_pairs(scores: Scores, right: Flags, groups: Groups) -> NDArray[np.float64]:
    """Of each question the pairs that a prior ranks the wrong way round: how many of them the score
    wins, and how many there are, float64 [questions, 2].

    ``scores`` is float [n, 2]: the score, and the prior, which knows nothing of the solution
    itself. A score that only repeats the prior wins none.
    """
    rows = []
    for members in _members(groups):
        values, are_right = scores[members], right[members]
        above, below = values[are_right][:, None], values[~are_right][None]
        misleading = above[..., 1] < below[..., 1]
        margins = (above[..., 0] - below[..., 0])[misleading]
        rows.append(((margins > 0).sum() + (margins == 0).sum() / 2, len(margins)))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def share_won(rows: NDArray[np.float64]) -> float:
    """Won pairs over all pairs, of :func:`misled_pairs` or :func:`rankings`; NaN without a pair."""
    pairs = rows[:, _PAIRS].sum()
    return float(rows[:, _WON].sum() / pairs) if pairs else float("nan")


def _won_pairs(above: Scores, below: Scores) -> tuple[float, int]:
    """Won pairs and all pairs; by ranks, because a matrix of a million scores would not fit."""
    ordered = np.sort(below)
    lower = np.searchsorted(ordered, above, side="left")
    not_higher = np.searchsorted(ordered, above, side="right")
    return float((lower + not_higher).sum() / 2), len(above) * len(below)


@dataclass(frozen=True)
class BestOfN:
    """Share of questions answered right when one solution of each group is picked."""

    picked: float
    random: float
    oracle: float

    @property
    def gap_recovered(self) -> float:
        """(picked − random) / (oracle − random); NaN if there is no gap."""
        gap = self.oracle - self.random
        return (self.picked - self.random) / gap if gap > 0 else float("nan")


_WON, _PAIRS, _PICKED, _RIGHT, _ANY = range(5)


def rankings(scores: Scores, right: Flags, groups: Groups) -> NDArray[np.float64]:
    """How the scores rank the solutions to each question, float64 [questions, 5].

    The columns: won pairs of a right and a wrong solution, all pairs, the chance that the one with
    the highest score is right, the share of right ones, whether any is right.
    """
    rows = []
    for members in _members(groups):
        values, are_right = scores[members], right[members]
        won, pairs = _won_pairs(values[are_right], values[~are_right])
        picked = are_right[values == values.max()].mean()
        rows.append((won, pairs, picked, are_right.mean(), are_right.any()))
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def num_with_pairs(rows: NDArray[np.float64]) -> int:
    """The questions of :func:`rankings` that have right and wrong solutions."""
    return int((rows[:, _PAIRS] > 0).sum())


def pairs_won(rows: NDArray[np.float64]) -> float:
    """AUC within a question, of :func:`rankings`; NaN without a pair."""
    return share_won(rows)


def picks(rows: NDArray[np.float64]) -> BestOfN:
    """What picking the highest score brings, of :func:`rankings`; ties are split evenly."""
    picked, random, oracle = rows[:, [_PICKED, _RIGHT, _ANY]].mean(axis=0)
    return BestOfN(float(picked), float(random), float(oracle))


def bootstrap(
    figure: Callable[[Scores, Flags, Groups], float],
    scores: Scores,
    right: Flags,
    groups: Groups,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """The figure with its 2.5 % and 97.5 % quantiles over questions resampled with replacement.

    Resamples whole questions, because solutions to one question are not independent.
    """
    members = _members(groups)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = [members[index] for index in rng.integers(0, len(members), len(members))]
        rows = np.concatenate(drawn)
        # A question drawn twice counts as two questions.
        renamed = np.repeat(np.arange(len(drawn)), [len(group) for group in drawn])
        values.append(figure(scores[rows], right[rows], renamed))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(figure(scores, right, groups), float(low), float(high))


def bootstrap_rows(
    figure: Callable[[NDArray[np.float64]], float],
    rows: NDArray[np.float64],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """As :func:`bootstrap`, with the same draws, for a figure of rows [questions, …] that are
    computed once."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(rows), len(rows)) for _ in range(num_resamples))
    low, high = np.nanquantile([figure(rows[drawn]) for drawn in draws], [0.025, 0.975])
    return Estimate(figure(rows), float(low), float(high))


def bootstrap_weighted(
    figure: Callable[[Weights], float],
    groups: NDArray[np.generic],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Estimate | None:
    """As :func:`bootstrap`, with the same draws, for a figure of weights [n]: how often the
    question of each item was drawn, and 1 for the figure itself. ``groups`` [n] holds the
    questions. None where there is no such figure."""
    value = figure(np.ones(len(groups)))
    if math.isnan(value):
        return None
    names, question_of = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        drawn = rng.integers(0, len(names), len(names))
        counts = np.bincount(drawn, minlength=len(names)).astype(np.float64)
        values.append(figure(counts[question_of]))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _members(groups: Groups) -> list[NDArray[np.int64]]:
    """Indices of each group."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    return np.split(order, cuts)


@dataclass(frozen=True)
class FirstError:
    """How well the first step below a threshold shows where a trajectory goes wrong."""

    wrong_located: float
    """Share of wrong trajectories whose first wrong step is found exactly."""
    right_accepted: float
    """Share of right trajectories in which no step falls below the threshold."""

    @property
    def f1(self) -> float:
        """Harmonic mean of both (ProcessBench, arXiv 2412.06559)."""
        total = self.wrong_located + self.right_accepted
        return 2 * self.wrong_located * self.right_accepted / total if total else 0.0


def first_error_accuracy(
    step_scores: StepScores,
    first_errors: Sequence[int | None],
    threshold: float | NDArray[np.float64] = 0.5,
) -> FirstError:
    """First-error accuracy. ``first_errors`` holds the index of each first wrong step, None for
    right trajectories; ``threshold`` may be one for each trajectory."""
    hits, wrong = _hits(step_scores, first_errors, threshold)
    return _first_error(hits, wrong, np.ones(len(hits)))


def first_error_f1(
    step_scores: StepScores,
    first_errors: Sequence[int | None],
    groups: Sequence[str],
    threshold: float | NDArray[np.float64] = 0.5,
) -> Estimate | None:
    """F1 of :func:`first_error_accuracy`, with its interval over the questions ``groups``; None if
    all trajectories are right or all are wrong. Thresholds are taken as given: how much they
    depend on the data that they were chosen on is not in the interval."""
    hits, wrong = _hits(step_scores, first_errors, threshold)
    questions = np.array(groups)
    return bootstrap_weighted(lambda weights: _first_error(hits, wrong, weights).f1, questions)


def _hits(
    step_scores: StepScores,
    first_errors: Sequence[int | None],
    threshold: float | NDArray[np.float64],
) -> tuple[Flags, Flags]:
    """Of each trajectory, whether its first step below the threshold is the first wrong one, or
    none is and it is right; and whether it is wrong."""
    thresholds = np.broadcast_to(threshold, len(first_errors)).tolist()
    rows = zip(step_scores, thresholds, first_errors, strict=True)
    hits = [first_below(scores, threshold) == truth for scores, threshold, truth in rows]
    wrong = [truth is not None for truth in first_errors]
    return np.array(hits, dtype=np.bool_), np.array(wrong, dtype=np.bool_)


def _first_error(hits: Flags, wrong: Flags, weights: Weights) -> FirstError:
    shares = [_share(hits[those], weights[those]) for those in (wrong, ~wrong)]
    return FirstError(*shares)


def _share(flags: Flags, weights: Weights) -> float:
    total = weights.sum()
    return float(weights @ flags / total) if total else math.nan
