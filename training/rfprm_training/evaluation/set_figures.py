"""Scores an evaluation set by a PRM, or judges it by an LLM, and computes its figures."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.best_of_n import CurvePoint, best_of_n_curve
from rfprm_training.evaluation.metrics import (
    Estimate,
    FirstError,
    auc,
    bootstrap,
    first_error_accuracy,
    within_group_auc,
)
from rfprm_training.evaluation.step_metrics import (
    Calibration,
    CannotCalibrateError,
    StepClassification,
    calibration,
    cross_fitted_classification,
    cross_fitted_first_error,
    fit_temperature,
    folds,
)
from rfprm_training.example import Example
from rfprm_training.labelling.expert.client import ExpertClient, ExpertError
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.expert.judge import StepJudge


@dataclass(frozen=True)
class SetEvaluation:
    """The figures of one set; None where the set has no labels for a figure."""

    num_trajectories: int
    num_questions: int
    num_failed: int
    """Trajectories without a score; they count as if no error was found in them."""
    first_error: FirstError | None = None
    """With the thresholds below (ProcessBench's F1)."""
    first_error_at_half: FirstError | None = None
    """With a threshold of 0.5."""
    thresholds: tuple[float, float] | None = None
    """The lowest and the highest of ten thresholds, each chosen on nine tenths of the questions and
    used on the rest."""
    steps: StepClassification | None = None
    step_auc: float | None = None
    step_calibration: Calibration | None = None
    outcome_auc: Estimate | None = None
    outcome_auc_within_question: Estimate | None = None
    best_of_n: tuple[CurvePoint, ...] = ()
    outcome_calibration: Calibration | None = None
    """Of the trajectory score as it is."""
    outcome_calibration_fitted: Calibration | None = None
    """After temperature scaling, cross-fitted by question."""

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        for name in ("first_error", "first_error_at_half"):
            part = getattr(self, name)
            if part is not None:
                found[name]["f1"] = part.f1
        if self.steps is not None:
            found["steps"]["prm_score"] = self.steps.prm_score
        return found


def summarise_set(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None]
) -> SetEvaluation:
    """All figures that the set's labels allow. Pure."""
    questions = len({example.group for example in examples})
    figures: dict[str, Any] = {
        **_step_figures(examples, scores),
        **_outcome_figures(examples, scores),
    }
    failed = sum(score is None for score in scores)
    return SetEvaluation(len(examples), questions, failed, **figures)


def _step_scores(example: Example, score: TrajectoryScore | None) -> Any:
    """The step scores; a trajectory without a score counts as all right."""
    if score is None:
        return np.ones(len(example.trajectory.steps), np.float32)
    return score.step_scores


def _step_figures(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None]
) -> dict[str, Any]:
    labelled = [
        (example, _step_scores(example, score))
        for example, score in zip(examples, scores, strict=True)
        if not math.isnan(example.step_labels[0])
    ]
    if not labelled:
        return {}
    by_step = [(e, s[i], x) for e, s in labelled for i, x in enumerate(e.step_labels) if x == x]
    step_scores = np.array([score for _, score, _ in by_step], dtype=np.float64)
    right = np.array([label >= 0.5 for _, _, label in by_step])
    first_errors = [example.first_error for example, _ in labelled]
    found, thresholds = cross_fitted_first_error(
        [s for _, s in labelled], first_errors, [example.group for example, _ in labelled]
    )
    classified = cross_fitted_classification(
        step_scores, right, [example.group for example, _, _ in by_step]
    )
    return {
        "first_error": found,
        "first_error_at_half": first_error_accuracy([s for _, s in labelled], first_errors),
        "thresholds": (float(thresholds.min()), float(thresholds.max())),
        "steps": classified,
        "step_auc": auc(step_scores, right),
        "step_calibration": calibration(step_scores, right),
    }


def _outcome_figures(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None]
) -> dict[str, Any]:
    known = [
        (example, score)
        for example, score in zip(examples, scores, strict=True)
        if score is not None and not math.isnan(example.trajectory_label)
    ]
    right = np.array([example.trajectory_label >= 0.5 for example, _ in known], dtype=np.bool_)
    if not known or right.all() or not right.any():
        return {}
    rewards = np.array([score.reward for _, score in known], dtype=np.float64)
    names = [example.group for example, _ in known]
    groups = np.unique(names, return_inverse=True)[1]
    answers = [
        final_answer("\n".join(e.trajectory.response or e.trajectory.steps[-1:])) for e, _ in known
    ]
    figures: dict[str, Any] = {
        "outcome_auc": bootstrap(lambda s, r, g: auc(s, r), rewards, right, groups),
    }
    if len(set(names)) < len(names):
        figures["outcome_auc_within_question"] = bootstrap(within_group_auc, rewards, right, groups)
        figures["best_of_n"] = tuple(best_of_n_curve(rewards, right, groups, answers=answers))
    finals = [score.trajectory_score for _, score in known]
    if None not in finals:
        values = np.array(finals, dtype=np.float64)
        figures["outcome_calibration"] = calibration(values, right)
        fitted = cross_fitted_calibration(values, right, names)
        if fitted is not None:
            figures["outcome_calibration_fitted"] = calibration(fitted, right)
    return figures


def cross_fitted_calibration(scores: Any, right: Any, groups: Sequence[str]) -> Any:
    """Scores after temperature scaling, each fold of the questions with the fit on the other
    folds; None if a fold cannot be fitted."""
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    logits = np.log(clipped / (1 - clipped))
    fold_of = folds(groups)
    out = np.empty_like(logits)
    for fold in np.unique(fold_of):
        own = fold_of == fold
        try:
            temperature, bias = fit_temperature(logits[~own], right[~own])
        except CannotCalibrateError:
            return None
        out[own] = 1 / (1 + np.exp(-(logits[own] / temperature + bias)))
    return out


def score_set(scorer: Scorer, examples: Sequence[Example]) -> list[TrajectoryScore | None]:
    """A PRM's scores; trajectories longer than the model are scored in windows."""
    trajectories = [example.trajectory for example in examples]
    scores = scorer.score_batch(trajectories, overflow="window", show_progress_bar=True)
    return list(scores)


def judge_set(
    examples: Sequence[Example], config: ExpertConfig, *, scale: tuple[float, float] = (1.0, 5.0)
) -> list[TrajectoryScore | None]:
    """An LLM's grades as scores: a baseline for PRMs that costs at least a request per trajectory.
    None where the LLM gave no usable answer."""

    async def run() -> list[TrajectoryScore | None]:
        async with ExpertClient(config) as client:
            judge = StepJudge(client, scale=scale)

            async def one(example: Example) -> TrajectoryScore | None:
                try:
                    grades = await judge.grade(example.trajectory)
                except ExpertError:
                    return None
                on_scale = np.array([grade.grade for grade in grades])
                values = ((on_scale - scale[0]) / (scale[1] - scale[0])).astype(np.float32)
                return TrajectoryScore(
                    step_scores=values,
                    trajectory_score=None,
                    reward=float(np.mean(values)),
                    num_tokens=0,
                )

            return await asyncio.gather(*map(one, examples))

    return asyncio.run(run())
