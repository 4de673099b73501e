"""Chooses α, the weight of the trajectory score in the reward, by how the reward ranks solutions to
the same question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_training.evaluation.metrics import num_with_pairs, pairs_won, picks, rankings
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


def rankings_with(
    alpha: float,
    mean_steps: NDArray[np.float64],
    trajectory: NDArray[np.float64],
    right: NDArray[np.bool_],
    groups: NDArray[np.int64],
) -> NDArray[np.float64]:
    """:func:`~rfprm_training.evaluation.metrics.rankings` by mean step score + α · trajectory score
    (Eq. 11); of an infinite α by the trajectory score alone."""
    reward = trajectory if math.isinf(alpha) else mean_steps + alpha * trajectory
    return rankings(reward, right, groups)


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
    names, numbers = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    # The current one first: of equally good ones it stays.
    candidates = (before, *(alpha for alpha in ALPHAS if alpha != before))
    ranked = np.stack(
        [rankings_with(alpha, mean_steps, trajectory, right, numbers) for alpha in candidates]
    )
    num_questions = num_with_pairs(ranked[0])
    if num_questions < _MIN_QUESTIONS:
        return None

    def best(rows: NDArray[np.bool_]) -> int:
        return int(np.nanargmax([pairs_won(of_alpha[rows]) for of_alpha in ranked]))

    fold_of = folds(names.tolist())
    crossed = np.empty_like(ranked[0])
    for fold in np.unique(fold_of):
        own = fold_of == fold
        crossed[own] = ranked[best(~own), own]
    return AlphaChoice(
        before=before,
        chosen=candidates[best(np.ones(len(names), dtype=np.bool_))],
        num_questions=num_questions,
        auc_before=pairs_won(ranked[0]),
        auc_after=pairs_won(crossed),
        gap_before=picks(ranked[0]).gap_recovered,
        gap_after=picks(crossed).gap_recovered,
    )
