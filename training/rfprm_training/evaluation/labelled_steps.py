"""Steps with their labels and scores, and how well the scores tell right steps from wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export.verify import rank_correlation
from rfprm_training.evaluation.metrics import Estimate, auc, bootstrap, within_group_auc
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

    @property
    def auc(self) -> float:
        return auc(self.scores, self.right)

    @property
    def auc_at_place(self) -> float:
        """Over pairs of steps with the same number in their traces: scores that merely fall from
        step to step have a high :attr:`auc` where errors come late, and 0.5 here."""
        return within_group_auc(self.scores, self.right, self.places) if len(self) else math.nan

    @property
    def auc_in_wrong(self) -> float:
        """The same in traces with a wrong step alone. Where steps are graded right because the
        outcome is, scores that know the outcome and no step have a high :attr:`auc`, and 0.5
        here."""
        return self._taken(np.flatnonzero(self.in_wrong)).auc_at_place

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's ρ of scores and labels; None if either are all the same."""
        return rank_correlation(self.scores, self.right.astype(np.float64))

    def estimate(self, figure: Callable[[LabelledSteps], float | None]) -> Estimate | None:
        """``figure`` with its 95 % interval over questions; None where there is no such figure."""

        def of(rows: NDArray[np.float64], *_: object) -> float:
            value = figure(self._taken(rows.astype(np.int64)))
            return math.nan if value is None else value

        every = np.arange(len(self), dtype=np.float64)
        if math.isnan(of(every)):
            return None
        _, questions = np.unique(self.groups, return_inverse=True)
        return bootstrap(of, every, self.right, questions)

    def _taken(self, rows: NDArray[np.int64]) -> LabelledSteps:
        return LabelledSteps(
            self.scores[rows],
            self.right[rows],
            self.places[rows],
            self.in_wrong[rows],
            self.groups[rows],
        )


FIGURES: dict[str, Callable[[LabelledSteps], float | None]] = {
    "step_auc": lambda steps: steps.auc,
    "step_auc_at_place": lambda steps: steps.auc_at_place,
    "step_auc_in_wrong": lambda steps: steps.auc_in_wrong,
    "rank_correlation": lambda steps: steps.rank_correlation,
}
"""By the names that results have for them."""
