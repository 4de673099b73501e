"""What a PRM is worth on data it was not trained on, for any checkpoint or artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_export.checkpoint import CHECKPOINT_NAME, load_prm
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.encoding import TrajectoryEncoder
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.config import TrainingConfig
from rfprm_training.dataset import Example, build_examples
from rfprm_training.metrics import (
    BestOfN,
    Estimate,
    FirstError,
    auc,
    best_of_n,
    bootstrap,
    first_error_accuracy,
    within_group_auc,
)

SCORE_KINDS = ("reward", "trajectory_score", "mean_step_score", "shorter_is_better")


@dataclass(frozen=True)
class RankingReport:
    """How one way to score ranks real solutions."""

    auc: Estimate
    auc_within_question: Estimate
    best_of_n: BestOfN
    gap_recovered: Estimate


@dataclass(frozen=True)
class Evaluation:
    """Everything that ``rfprm evaluate`` prints."""

    num_solutions: int
    num_questions: int
    rankings: dict[str, RankingReport]
    num_constructed: int
    first_error: FirstError
    first_error_by_kind: dict[str, float]
    constructed_auc_within_question: Estimate

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "first_error_f1": self.first_error.f1}


def open_scorer(path: Path) -> Scorer:
    """A checkpoint scores by the reference network, an artifact by its own backend."""
    if not (path / CHECKPOINT_NAME).is_file():
        return Scorer.load(path)
    prm = load_prm(path)
    encoder = TrajectoryEncoder(
        prm.tokenizer, prm.manifest.prompt, vocab_size=prm.manifest.backbone.vocab_size
    )
    network = build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)
    return Scorer(prm.manifest, encoder, TorchBackend(network))


def evaluate_scorer(
    scorer: Scorer, config: TrainingConfig, *, show_progress_bar: bool = False
) -> Evaluation:
    """Score what ``config`` held out of training, and nothing else.

    Raises :class:`TrainingError` where it held out no real solution or no constructed one.
    """
    examples = [e for e in build_examples(config.data, config.seed) if e.held_out]
    sampled = [example for example in examples if example.kind == "sampled"]
    constructed = [e for e in examples if e.kind not in ("sampled", "reworded")]
    if not sampled or not constructed:
        raise TrainingError(
            "the config holds out no data to evaluate on: set data.held_out_fold and "
            "data.num_constructed_held_out"
        )
    scores = scorer.score_batch(
        [example.trajectory for example in (*sampled, *constructed)],
        show_progress_bar=show_progress_bar,
    )
    return summarise(sampled, scores[: len(sampled)], constructed, scores[len(sampled) :])


def summarise(
    sampled: Sequence[Example],
    sampled_scores: Sequence[TrajectoryScore],
    constructed: Sequence[Example],
    constructed_scores: Sequence[TrajectoryScore],
) -> Evaluation:
    """All figures from scored held-out examples. Pure."""
    right, groups = _outcomes(sampled), _group_ids(sampled)
    first_errors = [example.first_error for example in constructed]
    step_scores = [score.step_scores for score in constructed_scores]
    kinds = sorted({example.kind for example in constructed} - {"gold"})
    return Evaluation(
        num_solutions=len(sampled),
        num_questions=len(set(groups.tolist())),
        rankings={
            kind: _ranking(_score_by(kind, sampled, sampled_scores), right, groups)
            for kind in SCORE_KINDS
        },
        num_constructed=len(constructed),
        first_error=first_error_accuracy(step_scores, first_errors),
        first_error_by_kind={
            kind: _located(kind, constructed, constructed_scores) for kind in kinds
        },
        constructed_auc_within_question=bootstrap(
            within_group_auc,
            _score_by("reward", constructed, constructed_scores),
            _outcomes(constructed),
            _group_ids(constructed),
        ),
    )


def _ranking(scores: Any, right: Any, groups: Any) -> RankingReport:
    return RankingReport(
        auc=bootstrap(lambda s, r, g: auc(s, r), scores, right, groups),
        auc_within_question=bootstrap(within_group_auc, scores, right, groups),
        best_of_n=best_of_n(scores, right, groups),
        gap_recovered=bootstrap(
            lambda s, r, g: best_of_n(s, r, g).gap_recovered, scores, right, groups
        ),
    )


def _score_by(kind: str, examples: Sequence[Example], scores: Sequence[TrajectoryScore]) -> Any:
    if kind == "shorter_is_better":  # the baseline that reads difficulty off the length
        return np.array([-float(score.num_tokens) for score in scores])
    if kind == "mean_step_score":
        return np.array([float(score.step_scores.mean()) for score in scores])
    return np.array([float(getattr(score, kind)) for score in scores])


def _outcomes(examples: Sequence[Example]) -> Any:
    return np.array([example.trajectory_label > 0.5 for example in examples])


def _group_ids(examples: Sequence[Example]) -> Any:
    return np.unique([example.group for example in examples], return_inverse=True)[1]


def _located(kind: str, examples: Sequence[Example], scores: Sequence[TrajectoryScore]) -> float:
    chosen = [(e, s) for e, s in zip(examples, scores, strict=True) if e.kind == kind]
    return first_error_accuracy(
        [score.step_scores for _, score in chosen], [example.first_error for example, _ in chosen]
    ).wrong_located
