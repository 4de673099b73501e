"""Best-of-N curves: picking by a score compared with chance, majority vote and oracle.

Exact over all subsets of N solutions to a question where there is a closed form. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.answers.grouping import group_answers
from rfprm_training.evaluation.metrics import BestOfN, Estimate, Flags, Groups, Scores

_MAJORITY_DRAWS = 200


@dataclass(frozen=True)
class CurvePoint:
    """Share of questions answered right with N solutions to each; 95 % intervals over questions."""

    n: int
    picked: Estimate
    random: Estimate
    majority: Estimate | None
    oracle: Estimate
    gap_recovered: Estimate | None
    num_questions: int


def best_of_n_curve(
    scores: Scores,
    right: Flags,
    groups: Groups,
    *,
    answers: Sequence[str | None] | None = None,
    sizes: Sequence[int] = (2, 4, 8, 16),
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[CurvePoint]:
    """A point for each size for which some question has enough solutions.

    Picked, random and oracle are expectations over all subsets of N. Majority vote, which needs
    ``answers``, is the mean over 200 seeded subsets, with ties split evenly; answers to a question
    that mean the same count as one.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    voted = None if answers is None else _in_one_spelling(answers, members)
    points = []
    for n in sizes:
        enough = [rows for rows in members if len(rows) >= n]
        if not enough:
            continue
        rng = np.random.default_rng([seed, n])
        picked = np.array([picked_right(scores[rows], right[rows], n) for rows in enough])
        random = np.array([right[rows].mean() for rows in enough])
        oracle = np.array([any_right(right[rows], n) for rows in enough])
        votes = None
        if voted is not None:
            votes = np.array(
                [
                    majority_right([voted[int(i)] for i in rows], right[rows], n, rng)
                    for rows in enough
                ]
            )
        draws = rng.integers(0, len(enough), (num_resamples, len(enough)))
        points.append(
            CurvePoint(
                n=n,
                picked=_estimate(picked, draws),
                random=_estimate(random, draws),
                majority=None if votes is None else _estimate(votes, draws),
                oracle=_estimate(oracle, draws),
                gap_recovered=_gap(picked, random, oracle, draws),
                num_questions=len(enough),
            )
        )
    return points


def _in_one_spelling(
    answers: Sequence[str | None], members: Sequence[NDArray[np.int64]]
) -> list[str | None]:
    """Answers to one question that mean the same become one text. ``members`` [questions] holds the
    indices of its answers."""
    found = list(answers)
    for rows in members:
        for group in group_answers([answers[int(i)] for i in rows]):
            for place in group:
                found[int(rows[place])] = answers[int(rows[group[0]])]
    return found


def picked_right(scores: Scores, right: Flags, n: int) -> float:
    """Chance that the highest-scored solution of a random subset of n is right; ties are split
    evenly."""
    total = comb(len(scores), n)
    expected, above = 0.0, 0
    for value in np.unique(scores)[::-1]:
        tied = scores == value
        count = int(tied.sum())
        # Subsets whose best has this score: without higher ones, but not lower ones alone.
        left = len(scores) - above
        chance = (comb(left, n) - comb(left - count, n)) / total
        expected += chance * float(right[tied].mean())
        above += count
    return expected


def any_right(right: Flags, n: int) -> float:
    """Chance that a random subset of n holds a right solution."""
    wrong = int((~right).sum())
    return 1 - comb(wrong, n) / comb(len(right), n)


def majority_right(
    answers: Sequence[str | None], right: Flags, n: int, rng: np.random.Generator
) -> float:
    """How often the most frequent answer of a random subset of n is right. A solution without an
    answer has no vote; a subset without votes counts as wrong."""
    total = 0.0
    for _ in range(_MAJORITY_DRAWS):
        chosen = rng.choice(len(answers), n, replace=False)
        votes: dict[str, list[bool]] = {}
        for index in chosen:
            answer = answers[index]
            if answer is not None:
                votes.setdefault(answer, []).append(bool(right[index]))
        most = max(map(len, votes.values()), default=0)
        leaders = [v for v in votes.values() if len(v) == most]
        if leaders:
            total += float(np.mean([np.mean(leader) for leader in leaders]))
    return total / _MAJORITY_DRAWS


def _estimate(values: NDArray[np.float64], draws: NDArray[np.int64]) -> Estimate:
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def _gap(
    picked: NDArray[np.float64],
    random: NDArray[np.float64],
    oracle: NDArray[np.float64],
    draws: NDArray[np.int64],
) -> Estimate | None:
    """None where the best pick is never better than a random one."""
    both = np.stack([picked, random, oracle], axis=1)
    resampled = [BestOfN(*both[rows].mean(axis=0)).gap_recovered for rows in draws]
    if not np.isfinite(resampled).any():
        return None
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    value = BestOfN(*both.mean(axis=0)).gap_recovered
    return Estimate(float(value), float(low), float(high))
