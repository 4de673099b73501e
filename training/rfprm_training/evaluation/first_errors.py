"""Fits the threshold by which a PRM's step scores tell where a trace goes wrong first.

Even odds find few errors: in a wrong trace several steps are a little doubtful, and few are more
likely wrong than right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rfprm_runtime.artifact.manifest import FirstErrorRule, Readout
from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.metrics import FirstError, first_error_accuracy
from rfprm_training.evaluation.step_metrics import (
    NUM_FOLDS,
    best_first_error_threshold,
    cross_fitted_first_error,
)
from rfprm_training.example import Example

MIN_TRACES = 50
"""Wrong ones and right ones, each."""


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


def fit_rule(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore],
    *,
    fitted_on: str,
    readout: Readout | None = None,
    before: FirstErrorRule | None = None,
) -> RuleChoice | None:
    """The rule with the highest F1 (ProcessBench) on traces whose labels tell where they go wrong.
    None if fewer than 50 of them are right, or wrong.

    ``readout``: how step scores were read; without one they are probabilities. ``before``: the rule
    in force, by default even odds.
    """
    pairs = _known(examples, scores)
    steps = [score.step_scores for _, score in pairs]
    truth = [example.first_error for example, _ in pairs]
    if min(truth.count(None), len(truth) - truth.count(None)) < MIN_TRACES:
        return None
    search = Claims(readout).search(steps)
    after, _ = cross_fitted_first_error(steps, truth, [e.group for e, _ in pairs], search)
    best = best_first_error_threshold(steps, truth, search)
    plain = round(best, 6)
    is_as_good = first_error_accuracy(steps, truth, plain) == first_error_accuracy(
        steps, truth, best
    )
    chosen = FirstErrorRule(
        wrong_below=plain if is_as_good else best,
        fitted_on=f"{len(truth)} traces of {fitted_on}: F1 {after.f1:.3f} (located "
        f"{after.wrong_located:.3f}, accepted {after.right_accepted:.3f}), cross-fitted in "
        f"{NUM_FOLDS} folds",
    )
    before = before or FirstErrorRule(wrong_below=search.undecided)
    found_before = first_error_accuracy(steps, truth, before.wrong_below)
    return RuleChoice(before, chosen, len(truth), found_before, after)


def right_and_wrong(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore]
) -> tuple[int, int]:
    """How many traces with step scores and labels that tell where they go wrong are right, and
    how many are wrong."""
    truth = [example.first_error for example, _ in _known(examples, scores)]
    return truth.count(None), len(truth) - truth.count(None)


def _known(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore]
) -> list[tuple[Example, TrajectoryScore]]:
    return [
        (example, score)
        for example, score in zip(examples, scores, strict=True)
        if len(score.step_scores) and example.knows_first_error
    ]
