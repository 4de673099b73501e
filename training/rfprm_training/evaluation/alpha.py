"""Chooses α, the weight of the trajectory score in the reward, by how the reward ranks solutions to
the same question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_training.evaluation.metrics import best_of_n, within_group_auc
from rfprm_training.evaluation.step_metrics import folds

ALPHAS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0)
"""The candidates; the best of all is found among them, beside the current one."""
_MIN_QUESTIONS = 50


@dataclass(frozen=True)
class AlphaChoice:
    """What another α changes, over solutions to ``num_questions`` questions."""

    before: float
    chosen: float
    num_questions: int
    """That have right and wrong solutions."""
    auc_before: float
    auc_after: float
    """AUC within a question; each fold of the questions is ranked with the α that is best on the
    other folds."""
    gap_before: float
    gap_after: float
    """Share of the Best-of-N gap that is recovered, alike."""

    @property
    def helps(self) -> bool:
        return self.chosen != self.before and self.auc_after > self.auc_before


def choose_alpha(
    mean_steps: NDArray[np.float64],
    trajectory: NDArray[np.float64],
    right: NDArray[np.bool_],
    groups: Sequence[str],
    *,
    before: float,
) -> AlphaChoice | None:
    """The α of mean step score + α · trajectory score (Eq. 11) with the highest AUC within a
    question, judged by cross-fitting. All arrays [N]; ``groups`` gives the question of each.

    None if fewer than 50 questions have both right and wrong solutions.
    """
    numbers = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)[1]
    shares = np.bincount(numbers, weights=right) / np.bincount(numbers)
    both = int(((shares > 0) & (shares < 1)).sum())
    if both < _MIN_QUESTIONS:
        return None
    # The current one first: of equally good ones it stays.
    candidates = (before, *(alpha for alpha in ALPHAS if alpha != before))
    rewards = [mean_steps + alpha * trajectory for alpha in candidates]

    def best(rows: NDArray[np.bool_]) -> int:
        found = [within_group_auc(reward[rows], right[rows], numbers[rows]) for reward in rewards]
        return int(np.nanargmax(found))

    fold_of = folds(groups)
    crossed = np.empty_like(trajectory)
    for fold in np.unique(fold_of):
        own = fold_of == fold
        crossed[own] = rewards[best(~own)][own]
    chosen = candidates[best(np.ones(len(right), dtype=np.bool_))]
    return AlphaChoice(
        before=before,
        chosen=chosen,
        num_questions=both,
        auc_before=within_group_auc(rewards[0], right, numbers),
        auc_after=within_group_auc(crossed, right, numbers),
        gap_before=best_of_n(rewards[0], right, numbers).gap_recovered,
        gap_after=best_of_n(crossed, right, numbers).gap_recovered,
    )
