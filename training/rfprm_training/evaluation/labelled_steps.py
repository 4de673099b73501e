"""Steps with their labels and scores, and how well the scores tell right steps from wrong ones,
with 95 % intervals over questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rfprm_training.evaluation.metrics import Estimate, Weights, bootstrap_weighted
from rfprm_training.evaluation.ordered import Ordered
from rfprm_training.example import Example


@dataclass(frozen=True)
class LabelledSteps:
    """All steps that have a label, of traces that have scores. All arrays [n]."""

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    places: NDArray[np.int64]
    """The number of a step in its trace, from 0."""
    in_wrong: NDArray[np.bool_]
    """Whether the trace has a wrong step."""
    groups: NDArray[np.str_]
    """The question."""

    @classmethod
    def of(cls, scored: Iterable[tuple[Example, NDArray[np.float32]]]) -> LabelledSteps:
        """Of examples with the scores of all their steps."""
        rows = [
            (scores[place], label >= 0.5, place, example.has_wrong_step, example.group)
            for example, scores in scored
            for place, label in enumerate(example.step_labels)
            if not math.isnan(label)
        ]
        scores, right, places, in_wrong, groups = zip(*rows, strict=True) if rows else ((),) * 5
        return cls(
            np.array(scores, dtype=np.float64),
            np.array(right, dtype=np.bool_),
            np.array(places, dtype=np.int64),
            np.array(in_wrong, dtype=np.bool_),
            np.array(groups, dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.right)

    @cached_property
    def auc(self) -> Estimate | None:
        """None, as the others, where it does not exist."""
        return self._estimate(Ordered(self.scores, self.right).auc)

    @cached_property
    def auc_at_place(self) -> Estimate | None:
        """Over pairs of steps with the same number in their traces: scores that merely fall from
        step to step have a high :attr:`auc` where errors come late, and 0.5 here."""
        return self._estimate(Ordered(self.scores, self.right, self.places).auc)

    @cached_property
    def auc_in_wrong(self) -> Estimate | None:
        """The same in traces with a wrong step alone. Where steps are graded right because the
        outcome is, scores that know the outcome and no step have a high :attr:`auc`, and 0.5
        here."""
        rows = np.flatnonzero(self.in_wrong)
        ordered = Ordered(self.scores[rows], self.right[rows], self.places[rows])
        return self._estimate(lambda weights: ordered.auc(weights[rows]))

    @cached_property
    def rank_correlation(self) -> Estimate | None:
        """Spearman's ρ of scores and labels; None if either are all the same."""
        return self._estimate(Ordered(self.scores, self.right).rank_correlation)

    def _estimate(self, figure: Callable[[Weights], float]) -> Estimate | None:
        return bootstrap_weighted(figure, self.groups)


FIGURES: dict[str, Callable[[LabelledSteps], Estimate | None]] = {
    "step_auc": lambda steps: steps.auc,
    "step_auc_at_place": lambda steps: steps.auc_at_place,
    "step_auc_in_wrong": lambda steps: steps.auc_in_wrong,
    "step_rank_correlation": lambda steps: steps.rank_correlation,
}
"""By the names that results have for them."""
