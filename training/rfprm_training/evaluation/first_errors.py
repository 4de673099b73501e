"""Fits the rule by which a PRM's scores tell where a trace goes wrong first.

Traces that were right are mostly right in every step, and few steps of a wrong one are more likely
wrong than right. So the best thresholds are not even odds, and the score of the whole trace helps
to decide whether to look for an error at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import FirstErrorRule, Manifest
from rfprm_runtime.scores.first_error import first_error, rule_of
from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.metrics import FirstError, first_errors_found
from rfprm_training.evaluation.step_metrics import NUM_FOLDS, folds
from rfprm_training.example import Example

_MIN_TRACES = 50
"""Wrong ones and right ones, each."""
_NUM_STEP_THRESHOLDS, _NUM_TRACE_THRESHOLDS = 99, 39
_NONE = -1


@dataclass(frozen=True)
class RuleChoice:
    """The rule that was in force, the best one, and how well both find first errors."""

    before: FirstErrorRule
    chosen: FirstErrorRule
    num_traces: int
    found_before: FirstError
    found_after: FirstError
    """Each fold of the questions is judged by the rule that is best for the other folds."""

    @property
    def helps(self) -> bool:
        return self.found_after.f1 > self.found_before.f1


def found_by_rule(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None], rule: FirstErrorRule
) -> FirstError:
    """How well ``rule`` finds the first errors of traces whose steps are labelled. A trace without
    a score counts as accepted."""
    found = [None if score is None else first_error(score, rule) for score in scores]
    return first_errors_found(found, [example.first_error for example in examples])


def fit_rule(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore],
    manifest: Manifest,
    *,
    fitted_on: str,
) -> RuleChoice | None:
    """The rule with the highest F1 (ProcessBench) on traces whose steps are labelled. None if fewer
    than 50 of them are right, or wrong.

    Steps have 99 thresholds to choose from, traces 39 and none at all. F1 is averaged over
    neighbours on this grid, so that a single lucky rule does not win.
    """
    pairs = [
        (example, score)
        for example, score in zip(examples, scores, strict=True)
        if len(score.step_scores) and not math.isnan(example.step_labels[0])
    ]
    truth = np.array([_NONE if e.first_error is None else e.first_error for e, _ in pairs])
    if min((truth == _NONE).sum(), (truth != _NONE).sum(), len(truth)) < _MIN_TRACES:
        return None
    known, marked = [score for _, score in pairs], [example for example, _ in pairs]
    grid = _Grid.of(known, manifest)
    right = grid.right(known, truth)
    fold_of = folds([example.group for example in marked])
    wrong = truth != _NONE
    judged = np.zeros(len(truth), dtype=np.bool_)
    for fold in np.unique(fold_of):
        own = fold_of == fold
        judged[own] = right[(*_best(right, wrong, ~own), own)]
    before = rule_of(manifest)
    after = FirstError(_share(judged[wrong]), _share(judged[~wrong]))
    text = (
        f"{len(truth)} traces of {fitted_on}: first-error F1 {after.f1:.3f} (located "
        f"{after.wrong_located:.3f}, accepted {after.right_accepted:.3f}), cross-fitted in "
        f"{NUM_FOLDS} folds"
    )
    chosen = grid.rule(*_best(right, wrong, np.ones(len(truth), dtype=np.bool_)), text)
    return RuleChoice(before, chosen, len(truth), found_by_rule(marked, known, before), after)


@dataclass(frozen=True)
class _Grid:
    of_steps: NDArray[np.float64]
    of_traces: NDArray[np.float64]
    """From the highest on; the first one, infinity, accepts no trace by its trajectory score."""

    @classmethod
    def of(cls, scores: Sequence[TrajectoryScore], manifest: Manifest) -> _Grid:
        steps = Claims.of_steps(manifest).ends([score.step_scores for score in scores])
        of_steps = np.linspace(*steps, _NUM_STEP_THRESHOLDS + 2)[1:-1]
        of_traces = np.array([np.inf])
        wholes = [s.trajectory_score for s in scores if s.trajectory_score is not None]
        if len(wholes) == len(scores):
            ends = Claims.of_trajectories(manifest).ends([np.array(wholes)])
            inner = np.linspace(*ends, _NUM_TRACE_THRESHOLDS + 2)[1:-1]
            of_traces = np.concatenate([of_traces, inner[::-1]])
        return cls(of_steps, of_traces)

    def right(
        self, scores: Sequence[TrajectoryScore], truth: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether each rule is right about each trace, [step thresholds, trace thresholds, N]."""
        found = np.full((len(self.of_steps), len(scores)), _NONE)
        for trace, score in enumerate(scores):
            below = score.step_scores[None] < self.of_steps[:, None].astype(np.float32)
            found[:, trace] = np.where(below.any(1), below.argmax(1), _NONE)
        wholes = np.array([s.trajectory_score or 0.0 for s in scores])
        accepted = wholes[None] >= self.of_traces[:, None]
        by_steps = (found == truth)[:, None]
        right: NDArray[np.bool_] = np.where(accepted[None], truth == _NONE, by_steps)
        return right

    def rule(self, step: int, trace: int, fitted_on: str) -> FirstErrorRule:
        whole = float(self.of_traces[trace])
        return FirstErrorRule(
            wrong_below=round(float(self.of_steps[step]), 4),
            accepted_from=round(whole, 4) if math.isfinite(whole) else None,
            fitted_on=fitted_on,
        )


def _best(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], chosen: NDArray[np.bool_]
) -> tuple[int, int]:
    """The place on the grid of the rule that is best on the ``chosen`` traces."""
    located = right[:, :, chosen & wrong].mean(axis=2)
    accepted = right[:, :, chosen & ~wrong].mean(axis=2)
    total = located + accepted
    f1 = np.divide(2 * located * accepted, total, out=np.zeros_like(total), where=total > 0)
    around = np.pad(f1, 1, mode="edge")
    rows, columns = f1.shape
    smooth = sum(around[i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    step, trace = np.unravel_index(int(np.argmax(smooth)), f1.shape)
    return int(step), int(trace)


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean())
