"""The figures of the ablation: how labels and PRMs rank traces, and what they make of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.report import over_questions
from experiments.ablation_runs import ALL_PARTS, VARIANTS, labelled_as
from rfprm_training.evaluation.alpha import rankings_with
from rfprm_training.evaluation.labelled_steps import FIGURES, LabelledSteps
from rfprm_training.evaluation.metrics import pairs_won, picks
from rfprm_training.example import Example
from rfprm_training.rewarded import RewardedTrajectory, known_or_nan

WEIGHTS = {"steps alone": 0.0, "α = 1": 1.0, "α = 7": 7.0, "trajectory alone": float("inf")}
"""α of the reward that ranks traces: mean step score + α · trajectory score (Eq. 11)."""
STEP_FIGURES = ("step_auc_at_place", "step_auc_in_wrong")


def of_labels(
    rows: Sequence[RewardedTrajectory], right: np.ndarray, questions: np.ndarray
) -> dict[str, list[float]]:
    """What the labels know by themselves, before any training: the AUC within a question of each
    component and of all fused, as the mean over a trace's known steps. ``questions`` [rows] are
    numbered from 0."""
    labels = {name: [known_or_nan(row.components[name]) for row in rows] for name in ALL_PARTS}
    labels["all fused"] = [
        known_or_nan(labelled_as(VARIANTS["+ all three"], row).step_rewards) for row in rows
    ]
    found = {}
    for name, of_rows in labels.items():
        means = np.array([np.mean(known) if (known := _known(of)) else np.nan for of in of_rows])
        # A trace without a label is neither better nor worse than the others.
        means = np.where(np.isnan(means), np.nanmean(means), means)
        table = rankings_with(0.0, means, np.zeros(len(means)), right, questions)
        found[name] = over_questions(pairs_won, table)
    return found


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not np.isnan(value)]


def rank(
    measured: dict[str, Any], right: np.ndarray, questions: np.ndarray, alpha: float
) -> np.ndarray:
    """What a reward with ``alpha`` makes of each question, [questions, 5]."""
    steps = np.array([np.mean(of_trace) for of_trace in measured["steps"]])
    trajectory = np.array(measured["trajectory"])
    return rankings_with(alpha, steps, trajectory, right, questions)


def auc(rows: np.ndarray) -> float:
    """Within a question, of ``rows`` [questions, seeds, 5]: the mean over seeds."""
    return float(np.mean([pairs_won(rows[:, seed]) for seed in range(rows.shape[1])]))


def gap(rows: np.ndarray) -> float:
    """The share of the gap from a random pick to the best, the mean over seeds."""
    return float(np.mean([picks(rows[:, seed]).gap_recovered for seed in range(rows.shape[1])]))


def labelled_steps(
    of_seeds: Sequence[Sequence[Sequence[float]]], examples: Sequence[Example]
) -> LabelledSteps:
    """The graded steps of all traces with the scores of each seed. A place is a seed's own, so that
    steps are compared with those of the same seed."""
    arrays = [[np.asarray(scores, np.float32) for scores in of_traces] for of_traces in of_seeds]
    seeds = [LabelledSteps.of(zip(examples, scores, strict=True)) for scores in arrays]
    span = 1 + max((int(one.places.max()) for one in seeds if len(one)), default=0)
    places = [one.places + seed * span for seed, one in enumerate(seeds)]
    return LabelledSteps(
        np.concatenate([one.scores for one in seeds]),
        np.concatenate([one.right for one in seeds]),
        np.concatenate(places),
        np.concatenate([one.in_wrong for one in seeds]),
        np.concatenate([one.groups for one in seeds]),
    )


def summarise(
    runs: dict[str, dict[str, dict[str, Any]]],
    right: np.ndarray,
    questions: np.ndarray,
    graded: Sequence[Example],
) -> dict[str, Any]:
    """For each variant and α: AUC within a question and gap recovered, and the AUC's difference
    from ``outcome``, with 95 % intervals over questions, and the AUC of each seed. Of the steps of
    ``graded``, the AUC at one place, in all traces and in those with a wrong step. And the means
    over seeds of the figures of the sets."""
    tables = {
        name: {
            kind: np.stack([rank(of_seed[s], right, questions, alpha) for s in sorted(of_seed)], 1)
            for kind, alpha in WEIGHTS.items()
        }
        for name, of_seed in runs.items()
    }
    found: dict[str, Any] = {}
    for name, by_kind in tables.items():
        found[name] = {
            kind: {
                "auc": over_questions(auc, rows),
                "auc_by_seed": [auc(rows[:, [seed]]) for seed in range(rows.shape[1])],
                "gap": over_questions(gap, rows),
            }
            for kind, rows in by_kind.items()
        }
        others = tables.get("outcome")
        if name != "outcome" and others and set(runs[name]) == set(runs["outcome"]):
            best = others["trajectory alone"]  # its steps were never trained
            for kind, rows in by_kind.items():
                both = np.concatenate([rows, best], axis=2)
                found[name][kind]["over_outcome"] = over_questions(_difference, both)
        of_seeds = [runs[name][seed] for seed in sorted(runs[name])]
        steps = labelled_steps([measured["steps"] for measured in of_seeds], graded)
        for figure in STEP_FIGURES:
            estimate = FIGURES[figure](steps)
            found[name][figure] = estimate and estimate.with_ends
        found[name]["sets"] = _mean_over_seeds([measured["sets"] for measured in of_seeds])
    return found


def _difference(both: np.ndarray) -> float:
    return auc(both[:, :, :5]) - auc(both[:, :, 5:])


def _mean_over_seeds(of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        spec: {
            figure: None
            if any(one[spec][figure] is None for one in of_seeds)
            else float(np.mean([one[spec][figure] for one in of_seeds]))
            for figure in of_seeds[0][spec]
        }
        for spec in of_seeds[0]
    }
