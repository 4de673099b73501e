"""PRMBench's table (arXiv 2501.03124): the PRM score of each kind of error, of its three groups,
and of all.

As upstream's: only the modified processes count; a step is called right if its score is above the
threshold, one half by default; the overall score pools the steps of all kinds; a group's is the
mean of its kinds'; and ``multi_solutions``, which has no wrong steps, is measured by the F1 of its
right ones. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.claims import Claims, have_steps
from rfprm_training.evaluation.metrics import first_error_accuracy
from rfprm_training.evaluation.published_formats import ORIGINAL
from rfprm_training.evaluation.step_metrics import StepClassification, classify_steps
from rfprm_training.example import Example

GROUPS: dict[str, tuple[str, ...]] = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
"""The kinds of each group, spelled as in the data."""
_WITHOUT_ERRORS = "multi_solutions"


@dataclass(frozen=True)
class Kind:
    """The figures of one kind of error."""

    num_processes: int
    steps: StepClassification
    prm_score: float


@dataclass(frozen=True)
class PRMBench:
    """The table."""

    kinds: Mapping[str, Kind]
    groups: Mapping[str, float]
    """PRM score of each group of which every kind occurs."""
    steps: StepClassification
    """Over the steps of all kinds."""
    first_errors_located: float
    """Share of the processes with errors whose first wrong step is the first one called wrong."""

    @property
    def prm_score(self) -> float:
        return self.steps.prm_score


def prmbench_table(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None], claims: Claims
) -> PRMBench | None:
    """The table of ``examples``, whose kinds are the classifications. Trajectories without a score
    are left out, as upstream leaves them out. None if nothing is left, or if the PRM gives no step
    scores."""
    rows = [
        (example, score.step_scores)
        for example, score in zip(examples, scores, strict=True)
        if score is not None and example.kind != ORIGINAL
    ]
    if not rows or not have_steps(scores):
        return None
    threshold = claims.undecided
    found = [(e, s > threshold, np.array(e.step_labels) >= 0.5) for e, s in rows]
    kinds: dict[str, Kind] = {}
    for name in sorted({example.kind for example, _, _ in found}, key=_place):
        of_kind = [(called, right) for example, called, right in found if example.kind == name]
        steps = _classified(of_kind)
        score = steps.f1_right if name == _WITHOUT_ERRORS else steps.prm_score
        kinds[name] = Kind(len(of_kind), steps, score)
    groups = {
        group: float(np.mean([kinds[name].prm_score for name in names]))
        for group, names in GROUPS.items()
        if all(name in kinds for name in names)
    }
    wrong = [(e, called) for e, called, _ in found if e.first_error is not None]
    located = first_error_accuracy(
        [called.astype(np.float32) for _, called in wrong], [e.first_error for e, _ in wrong]
    )
    return PRMBench(kinds, groups, _classified([row[1:] for row in found]), located.wrong_located)


def _classified(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> StepClassification:
    called, right = zip(*rows, strict=True)
    return classify_steps(np.concatenate(called), np.concatenate(right))


def _place(name: str) -> tuple[int, str]:
    order = [kind for kinds in GROUPS.values() for kind in kinds]
    return (order.index(name) if name in order else len(order), name)
