"""Items that are sorted once, so that their pairs and ranks can be counted for any weights: what
resampling needs a thousand times."""

from __future__ import annotations

import math

import numpy as np

from rfprm_training.evaluation.metrics import Flags, Groups, Scores, Weights


class Ordered:
    """Items sorted by score, within groups if there are any."""

    def __init__(self, scores: Scores, right: Flags, groups: Groups | None = None) -> None:
        """``scores``, ``right`` and ``groups`` [n]."""
        if groups is None:
            groups = np.zeros(len(scores), dtype=np.int64)
        self._order = np.lexsort((scores, groups))
        scores, groups = scores[self._order], groups[self._order]
        self._right = right[self._order].astype(np.float64)
        other_group = np.diff(groups) != 0
        cuts = np.flatnonzero(other_group | (np.diff(scores) != 0)) + 1
        self._tie_bounds = np.concatenate([[0], cuts, [len(scores)]])  # bounds of equal scores
        bounds = np.concatenate([[0], np.flatnonzero(other_group) + 1, [len(scores)]])
        of_tie = np.searchsorted(bounds, self._tie_bounds[:-1], side="right")
        self._group_bounds = bounds[of_tie - 1], bounds[np.minimum(of_tie, len(bounds) - 1)]

    def auc(self, weights: Weights) -> float:
        """AUC over pairs within a group, where an item counts ``weights`` [n] times; NaN without a
        pair."""
        if not len(self._order):
            return math.nan
        weights = weights[self._order]
        right = _summed(weights * self._right)
        wrong = _summed(weights * (1 - self._right))
        starts, ends = self._tie_bounds[:-1], self._tie_bounds[1:]
        group_starts, group_ends = self._group_bounds
        above = right[ends] - right[starts]
        below = wrong[starts] - wrong[group_starts] + (wrong[ends] - wrong[starts]) / 2
        pairs = above @ (wrong[group_ends] - wrong[group_starts])
        return float(above @ below / pairs) if pairs else math.nan

    def rank_correlation(self, weights: Weights) -> float:
        """Spearman's ρ of ``scores`` and ``right`` where an item counts ``weights`` [n] times; NaN
        if either are all the same. Only for items without groups."""
        if not len(self._order):
            return math.nan
        weights = weights[self._order]
        counted = _summed(weights)
        starts, ends = self._tie_bounds[:-1], self._tie_bounds[1:]
        ranks = np.repeat((counted[starts] + counted[ends]) / 2, ends - starts)
        ranks = ranks - np.average(ranks, weights=weights)
        flags = self._right - np.average(self._right, weights=weights)
        spread = (weights @ ranks**2) * (weights @ flags**2)
        return float((weights * ranks) @ flags / np.sqrt(spread)) if spread > 0 else math.nan


def _summed(values: Weights) -> Weights:
    """The sum before each item, and that of all: [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(values)])
