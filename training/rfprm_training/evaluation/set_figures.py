"""Scores an evaluation set by a PRM, and computes the figures of a set."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.artifact.manifest import FirstErrorRule, Manifest
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.bounds import unit_scale
from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.best_of_n import CurvePoint, best_of_n_curve
from rfprm_training.evaluation.claims import Claims, have_steps, step_scores_of
from rfprm_training.evaluation.labelled_steps import FIGURES, LabelledSteps
from rfprm_training.evaluation.metrics import (
    Estimate,
    FirstError,
    bootstrap_rows,
    bootstrap_weighted,
    first_error_accuracy,
    first_error_f1,
    num_with_pairs,
    pairs_won,
    rankings,
)
from rfprm_training.evaluation.ordered import Ordered
from rfprm_training.evaluation.step_metrics import (
    PROBABILITIES,
    Calibration,
    CannotCalibrateError,
    Search,
    StepClassification,
    calibration,
    cross_fitted_classification,
    cross_fitted_first_error,
    fit_temperature,
    folds,
)
from rfprm_training.example import Example

_logger = logging.getLogger(__name__)
_Scored: TypeAlias = tuple[Example, NDArray[np.float32]]


@dataclass(frozen=True)
class SetEvaluation:
    """The figures of one set; None where the set has no labels for a figure."""

    num_trajectories: int
    num_questions: int
    num_failed: int
    """Trajectories without a score; they count as if no error was found in them."""
    num_windowed: int = 0
    """Trajectories longer than the model, whose later steps were scored without some before."""
    num_first_errors: int = 0
    """Trajectories whose labels tell where they go wrong first, or that they do not; those of the
    next three figures."""
    first_error: FirstError | None = None
    """With the thresholds below (ProcessBench's F1)."""
    first_error_at_half: FirstError | None = None
    """With a threshold at the score that claims a chance of one half: 0.5 for probabilities."""
    first_error_by_rule: FirstError | None = None
    """By the rule that was fitted for the PRM, if one was: what ``Scorer.first_error`` says."""
    first_error_f1: Estimate | None = None
    first_error_f1_at_half: Estimate | None = None
    first_error_f1_by_rule: Estimate | None = None
    """F1 of the three with intervals, in which thresholds are taken as given."""
    thresholds: tuple[float, float] | None = None
    """The lowest and the highest of ten thresholds, each chosen on nine tenths of the questions and
    used on the rest."""
    steps: StepClassification | None = None
    step_auc: Estimate | None = None
    step_auc_at_place: Estimate | None = None
    step_auc_in_wrong: Estimate | None = None
    step_rank_correlation: Estimate | None = None
    """This and the three before as :class:`~.labelled_steps.LabelledSteps` says."""
    step_calibration: Calibration | None = None
    num_outcomes: int = 0
    num_right: int = 0
    """Trajectories with a score and a known outcome, and how many of them are right."""
    outcome_auc: Estimate | None = None
    outcome_auc_within_question: Estimate | None = None
    best_of_n: tuple[CurvePoint, ...] = ()
    outcome_calibration: Calibration | None = None
    """Of the trajectory score as it is; of one that is no probability, as
    :class:`~rfprm_training.evaluation.claims.Claims` reads it."""
    outcome_calibration_fitted: Calibration | None = None
    """After temperature scaling, cross-fitted by question."""
    has_steps: bool = True
    """False for a reward model of whole sequences: it has no figures of steps."""

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        for name in ("first_error", "first_error_at_half", "first_error_by_rule"):
            part = getattr(self, name)
            if part is not None:
                found[name]["f1"] = part.f1
        for name in FIGURES:
            estimate: Estimate | None = getattr(self, name)
            found[name] = None if estimate is None else estimate.value
            found[f"{name}_interval"] = None if estimate is None else estimate.with_ends[1:]
        if self.steps is not None:
            found["steps"]["prm_score"] = self.steps.prm_score
        return found


def summarise_set(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore | None],
    manifest: Manifest | None = None,
) -> SetEvaluation:
    """All figures that the set's labels and the scores allow. Pure.

    ``manifest``: of the PRM that scored; without one, scores are probabilities."""
    questions = len({example.group for example in examples})
    has_steps = have_steps(scores)
    figures: dict[str, Any] = {
        **(_step_figures(examples, scores, manifest) if has_steps else {}),
        **_outcome_figures(examples, scores, Claims.of_trajectories(manifest)),
        "has_steps": has_steps,
        "num_windowed": sum(s is not None and s.windowed_from is not None for s in scores),
    }
    failed = sum(score is None for score in scores)
    return SetEvaluation(len(examples), questions, failed, **figures)


def _step_figures(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore | None],
    manifest: Manifest | None,
) -> dict[str, Any]:
    claims, rule = Claims.of_steps(manifest), None if manifest is None else manifest.first_error
    there = [score.step_scores for score in scores if score is not None]
    search = claims.search(there) if there else PROBABILITIES
    scored = [
        (example, step_scores_of(example, score, search.high))
        for example, score in zip(examples, scores, strict=True)
    ]
    known = [pair for pair in scored if pair[0].knows_first_error]
    return {
        **_first_error_figures(known, search, rule),
        **_labelled_step_figures(scored, search, claims),
    }


def _first_error_figures(
    known: Sequence[_Scored], search: Search, rule: FirstErrorRule | None
) -> dict[str, Any]:
    """Of trajectories that know their first error."""
    if not known:
        return {}
    steps = [scores for _, scores in known]
    truth = [example.first_error for example, _ in known]
    groups = [example.group for example, _ in known]
    found, thresholds = cross_fitted_first_error(steps, truth, groups, search)
    by_rule = None if rule is None else first_error_accuracy(steps, truth, rule.wrong_below)
    f1 = partial(first_error_f1, steps, truth, groups)
    return {
        "num_first_errors": len(known),
        "first_error": found,
        "first_error_at_half": first_error_accuracy(steps, truth, search.undecided),
        "first_error_by_rule": by_rule,
        "first_error_f1": f1(thresholds),
        "first_error_f1_at_half": f1(search.undecided),
        "first_error_f1_by_rule": None if rule is None else f1(rule.wrong_below),
        "thresholds": (float(thresholds.min()), float(thresholds.max())),
    }


def _labelled_step_figures(
    scored: Sequence[_Scored], search: Search, claims: Claims
) -> dict[str, Any]:
    steps = LabelledSteps.of(scored)
    if not len(steps):
        return {}
    classified = cross_fitted_classification(
        steps.scores, steps.right, steps.groups.tolist(), search
    )
    return {
        "steps": classified,
        **{name: figure(steps) for name, figure in FIGURES.items()},
        "step_calibration": calibration(claims.probabilities(steps.scores), steps.right),
    }


def _outcome_figures(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None], claims: Claims
) -> dict[str, Any]:
    known = [
        (example, score)
        for example, score in zip(examples, scores, strict=True)
        if score is not None and not math.isnan(example.trajectory_label)
    ]
    right = np.array([example.trajectory_label >= 0.5 for example, _ in known], dtype=np.bool_)
    figures: dict[str, Any] = {"num_outcomes": len(known), "num_right": int(right.sum())}
    if right.all() or not right.any():
        return figures
    rewards = np.array([score.reward for _, score in known], dtype=np.float64)
    names = [example.group for example, _ in known]
    groups = np.unique(names, return_inverse=True)[1]
    answers = [
        final_answer("\n".join(e.trajectory.response or e.trajectory.steps[-1:])) for e, _ in known
    ]
    figures["outcome_auc"] = bootstrap_weighted(Ordered(rewards, right).auc, groups)
    if len(set(names)) < len(names):
        within = rankings(rewards, right, groups)
        if num_with_pairs(within):
            figures["outcome_auc_within_question"] = bootstrap_rows(pairs_won, within)
        figures["best_of_n"] = tuple(best_of_n_curve(rewards, right, groups, answers=answers))
    finals = [score.trajectory_score for _, score in known]
    if None not in finals:
        values = np.array(finals, dtype=np.float64)
        figures["outcome_calibration"] = calibration(claims.probabilities(values), right)
        fitted = cross_fitted_calibration(claims.log_odds(values), right, names)
        if fitted is not None:
            figures["outcome_calibration_fitted"] = calibration(fitted, right)
    return figures


def cross_fitted_calibration(logits: Any, right: Any, groups: Sequence[str]) -> Any:
    """Probabilities after temperature scaling of log-odds, each fold of the questions with the fit
    on the other folds; None if a fold cannot be fitted."""
    fold_of = folds(groups)
    out = np.empty_like(logits)
    for fold in np.unique(fold_of):
        own = fold_of == fold
        try:
            temperature, bias = fit_temperature(logits[~own], right[~own])
        except CannotCalibrateError:
            return None
        out[own] = unit_scale(logits[own] / temperature + bias, None)
    return out


def score_set(scorer: Scorer, examples: Sequence[Example]) -> list[TrajectoryScore | None]:
    """A PRM's scores; trajectories longer than the model are scored in windows. None for one that
    cannot be scored, which is logged. Raises the first error if none can."""
    trajectories = [example.trajectory for example in examples]
    found = scorer.score_batch(
        trajectories, overflow="window", show_progress_bar=True, on_error="return"
    )
    scores = [score if isinstance(score, TrajectoryScore) else None for score in found]
    errors = [error for error in found if isinstance(error, RfprmError)]
    if errors:
        if all(score is None for score in scores):
            raise errors[0]
        bad = examples[scores.index(None)].trajectory.question
        more = f" and {len(errors) - 1} others" if len(errors) > 1 else ""
        _logger.warning("the trace with the question %s%s: %s", shown(bad), more, errors[0])
    return scores
