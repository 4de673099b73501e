"""ProcessBench's table (arXiv 2412.06559): F1 of the first error for each subset, and their mean.

Two rules for the threshold are in use. The paper takes the one that is best on the subset gsm8k for
all subsets. PRMs that were trained on hard labels, such as Qwen2.5-Math-PRM, are published with the
score that claims a chance of one half. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.claims import Claims, have_steps, step_scores_of
from rfprm_training.evaluation.metrics import FirstError, StepScores, first_error_accuracy
from rfprm_training.evaluation.published_formats import SUBSETS
from rfprm_training.evaluation.step_metrics import best_first_error_threshold
from rfprm_training.example import Example

_CHOSEN_ON = SUBSETS[0]


@dataclass(frozen=True)
class Subset:
    """First errors in one subset, by both rules."""

    num_wrong: int
    num_right: int
    at_half: FirstError
    at_chosen: FirstError | None
    """With the threshold that is best on gsm8k; None without right and wrong ones of it."""


@dataclass(frozen=True)
class ProcessBench:
    """The table, its subsets in the paper's order."""

    subsets: Mapping[str, Subset]
    threshold_at_half: float
    threshold_chosen: float | None

    @property
    def mean_f1_at_half(self) -> float:
        """Mean of the subsets' F1, as published tables have it."""
        return float(np.mean([subset.at_half.f1 for subset in self.subsets.values()]))

    @property
    def mean_f1_at_chosen(self) -> float | None:
        chosen = [subset.at_chosen for subset in self.subsets.values()]
        known = [found.f1 for found in chosen if found is not None]
        return float(np.mean(known)) if known else None


def processbench_table(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None], claims: Claims
) -> ProcessBench | None:
    """The table of ``examples``, whose kinds are their subsets. A trajectory without a score counts
    as one in which no error was found. None if the PRM gives no step scores."""
    known = [score.step_scores for score in scores if score is not None]
    if not known or not have_steps(scores):
        return None
    search = claims.search(known)
    rows: dict[str, tuple[list[NDArray[np.float32]], list[int | None]]] = {}
    for example, score in zip(examples, scores, strict=True):
        steps, truth = rows.setdefault(example.kind, ([], []))
        steps.append(step_scores_of(example, score, search.high))
        truth.append(example.first_error)
    chosen = None
    if _CHOSEN_ON in rows and _has_both(rows[_CHOSEN_ON][1]):
        chosen = best_first_error_threshold(*rows[_CHOSEN_ON], search)
    subsets = {
        name: _subset(*rows[name], search.undecided, chosen) for name in sorted(rows, key=_place)
    }
    return ProcessBench(subsets, search.undecided, chosen)


def _has_both(truth: Sequence[int | None]) -> bool:
    """Whether there are right and wrong trajectories, without which no threshold is best."""
    return 0 < list(truth).count(None) < len(truth)


def _place(name: str) -> tuple[int, str]:
    return (SUBSETS.index(name) if name in SUBSETS else len(SUBSETS), name)


def _subset(
    steps: StepScores, truth: Sequence[int | None], at_half: float, chosen: float | None
) -> Subset:
    num_right = sum(error is None for error in truth)
    return Subset(
        num_wrong=len(truth) - num_right,
        num_right=num_right,
        at_half=first_error_accuracy(steps, truth, at_half),
        at_chosen=None if chosen is None else first_error_accuracy(steps, truth, chosen),
    )
