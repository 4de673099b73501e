"""Measures a checkpoint or artifact on the data that its training config held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_export.checkpoint import CHECKPOINT_NAME, load_prm
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.backends.packed_torch import PackedTorchBackend
from rfprm_runtime.backends.torch import build_network, find_device
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.evaluation.claims import Claims, have_steps
from rfprm_training.evaluation.metrics import (
    BestOfN,
    Estimate,
    FirstError,
    auc,
    bootstrap,
    bootstrap_rows,
    first_error_accuracy,
    misled_pairs,
    pairs_won,
    picks,
    rankings,
    share_won,
)
from rfprm_training.evaluation.step_metrics import (
    Calibration,
    Search,
    calibration,
    cross_fitted_first_error,
)
from rfprm_training.learning.config import TrainingConfig, read_config
from rfprm_training.learning.dataset import Example, build_examples
from rfprm_training.learning.precision import Precision, precision_of
from rfprm_training.learning.run_folder import CONFIG_NAME

SCORE_KINDS = (
    "reward",
    "trajectory_score",
    "mean_step_score",
    "shorter_is_better",
    "better_source_first",
)
"""The last two are baselines that know nothing of what a solution says: the first of them guesses
the difficulty from the length, the second knows which model or setting wrote it."""


@dataclass(frozen=True)
class RankingReport:
    """How well one kind of score ranks real solutions."""

    auc: Estimate
    auc_within_question: Estimate
    best_of_n: BestOfN
    gap_recovered: Estimate
    auc_against_source: Estimate | None = None
    """AUC within a question over the pairs whose right solution is of the source that is right less
    often on other questions; None without such a pair."""


@dataclass(frozen=True)
class Evaluation:
    """Everything that ``rfprm evaluate`` prints."""

    num_solutions: int
    num_questions: int
    rankings: dict[str, RankingReport]
    """For real solutions; empty if none were held out."""
    num_constructed: int
    constructed_auc_within_question: Estimate
    first_error: FirstError | None = None
    """With the thresholds below; like the next four None for a PRM without step scores."""
    first_error_at_half: FirstError | None = None
    """With a threshold at the score that claims a chance of one half: 0.5 for probabilities."""
    thresholds: tuple[float, float] | None = None
    """The lowest and the highest of ten thresholds, each chosen on nine tenths of the questions and
    used on the rest."""
    first_error_by_kind: dict[str, float] | None = None
    """Share of each kind of error that is located, with the same thresholds."""
    step_calibration: Calibration | None = None
    """None also if too few steps have labels."""

    def as_dict(self) -> dict[str, Any]:
        parts = (self.first_error, self.first_error_at_half)
        names = ("first_error_f1", "first_error_at_half_f1")
        f1 = {n: None if part is None else part.f1 for n, part in zip(names, parts, strict=True)}
        return {**asdict(self), **f1}


def open_scorer(
    path: Path,
    *,
    base: Path | None = None,
    dtype: Precision = "float32",
    score_prefixes: bool = False,
) -> Scorer:
    """A scorer of a checkpoint, by torch, or of an artifact, by its backend. ``base``: a
    checkpoint's base model, if it is not found by itself; ``dtype``: what its layers compute in;
    ``score_prefixes``: as of :class:`Scorer`."""
    if not (path / CHECKPOINT_NAME).is_file():
        return Scorer.load(path, score_prefixes=score_prefixes)
    prm = load_prm(path, base=base)
    encoder = TrajectoryEncoder(
        prm.tokenizer, prm.manifest.prompt, vocab_size=prm.manifest.backbone.vocab_size
    )
    network = build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)
    backend = PackedTorchBackend(network, dtype=dtype)
    return Scorer(prm.manifest, encoder, backend, score_prefixes=score_prefixes)


def trained_in(run: Path) -> Precision:
    """The type that a run was trained in: for a large base, float32 on a CPU would take far longer
    to score. Float32 for a checkpoint without its config."""
    if not (run / CONFIG_NAME).is_file():
        return "float32"
    return precision_of(read_config(run / CONFIG_NAME).network, find_device(None), run)


def evaluate_scorer(
    scorer: Scorer, config: TrainingConfig, *, show_progress_bar: bool = False
) -> Evaluation:
    """Score what ``config`` held out of training, and nothing else.

    Raises :class:`TrainingError` if it held out no constructed trajectories.
    """
    sampled, constructed = held_out_examples(config)
    if not constructed:
        raise TrainingError(
            "the config holds out no data to evaluate on; set data.num_constructed_held_out, and "
            "data.held_out_fold for real solutions"
        )
    scores = scorer.score_batch(
        [example.trajectory for example in (*sampled, *constructed)],
        show_progress_bar=show_progress_bar,
    )
    num_sampled = len(sampled)
    return summarise(
        sampled, scores[:num_sampled], constructed, scores[num_sampled:], scorer.manifest
    )


def held_out_examples(config: TrainingConfig) -> tuple[list[Example], list[Example]]:
    """The held-out real solutions, and the held-out constructed trajectories."""
    examples = [e for e in build_examples(config.data, config.seed) if e.held_out]
    sampled = [example for example in examples if example.kind == "sampled"]
    return sampled, [e for e in examples if e.kind not in ("sampled", "reworded")]


def summarise(
    sampled: Sequence[Example],
    sampled_scores: Sequence[TrajectoryScore],
    constructed: Sequence[Example],
    constructed_scores: Sequence[TrajectoryScore],
    manifest: Manifest | None = None,
) -> Evaluation:
    """All figures from scored held-out examples. Pure.

    ``manifest``: of the PRM that scored; without one, scores are probabilities."""
    steps: dict[str, Any] = {}
    if have_steps(constructed_scores):
        steps = _step_figures(constructed, constructed_scores, Claims.of_steps(manifest))
    return Evaluation(
        num_solutions=len(sampled),
        num_questions=len({example.group for example in sampled}),
        rankings=rank_by_every_score(sampled, sampled_scores) if sampled else {},
        num_constructed=len(constructed),
        constructed_auc_within_question=bootstrap_rows(
            pairs_won,
            rankings(
                _score_by("reward", constructed, constructed_scores),
                _outcomes(constructed),
                _group_ids(constructed),
            ),
        ),
        **steps,
    )


def _step_figures(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore], claims: Claims
) -> dict[str, Any]:
    first_errors = [example.first_error for example in examples]
    step_scores = [score.step_scores for score in scores]
    search = Search(*claims.ends(step_scores), claims.undecided)
    found, thresholds = cross_fitted_first_error(
        step_scores, first_errors, [example.group for example in examples], search
    )
    kinds = sorted({example.kind for example in examples} - {"gold"})
    return {
        "first_error": found,
        "first_error_at_half": first_error_accuracy(step_scores, first_errors, search.undecided),
        "thresholds": (float(thresholds.min()), float(thresholds.max())),
        "first_error_by_kind": {
            kind: _located(kind, examples, scores, thresholds) for kind in kinds
        },
        "step_calibration": _step_calibration(examples, scores, claims),
    }


def rank_by_every_score(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore]
) -> dict[str, RankingReport]:
    """How well each of :data:`SCORE_KINDS` that the PRM gives ranks solutions with known outcomes.
    Pure."""
    right, groups = _outcomes(examples), _group_ids(examples)
    missing = set() if have_steps(scores) else {"mean_step_score"}
    if any(score.trajectory_score is None for score in scores):
        missing.add("trajectory_score")
    found = {
        kind: _score_by(kind, examples, scores) for kind in SCORE_KINDS[:-1] if kind not in missing
    }
    sources = source_accuracy(
        [example.trajectory.source for example in examples],
        [example.group for example in examples],
        right,
    )
    if sources is not None:
        found[SCORE_KINDS[-1]] = sources
    return {kind: _ranking(values, right, groups, sources) for kind, values in found.items()}


def source_accuracy(
    sources: Sequence[str | None], groups: Sequence[str], right: Sequence[bool]
) -> NDArray[np.float64] | None:
    """How often the source of each solution is right on the other questions, ``groups``, float64
    [N]; None unless solutions to one question come from different sources, or if a source is of
    one question alone."""
    pairs = list(zip(sources, groups, strict=True))
    if len(set(pairs)) == len(set(groups)):
        return None
    of_all, of_own = Counter(sources), Counter(pairs)
    right_of_all: Counter[str | None] = Counter()
    right_of_own: Counter[tuple[str | None, str]] = Counter()
    for pair, is_right in zip(pairs, right, strict=True):
        right_of_all[pair[0]] += bool(is_right)
        right_of_own[pair] += bool(is_right)
    others = np.array([of_all[pair[0]] - of_own[pair] for pair in pairs])
    if not others.all():
        return None
    won = np.array([right_of_all[pair[0]] - right_of_own[pair] for pair in pairs])
    found: NDArray[np.float64] = won / others
    return found


def _ranking(scores: Any, right: Any, groups: Any, sources: Any) -> RankingReport:
    rows = rankings(scores, right, groups)
    return RankingReport(
        auc=bootstrap(lambda s, r, g: auc(s, r), scores, right, groups),
        auc_within_question=bootstrap_rows(pairs_won, rows),
        best_of_n=picks(rows),
        gap_recovered=bootstrap_rows(lambda some: picks(some).gap_recovered, rows),
        auc_against_source=_against_source(scores, right, groups, sources),
    )


def _against_source(scores: Any, right: Any, groups: Any, sources: Any) -> Estimate | None:
    if sources is None:
        return None
    rows = misled_pairs(np.stack([scores, sources], axis=1), right, groups)
    return None if np.isnan(share_won(rows)) else bootstrap_rows(share_won, rows)


def _score_by(kind: str, examples: Sequence[Example], scores: Sequence[TrajectoryScore]) -> Any:
    if kind == "shorter_is_better":
        return np.array([-float(score.num_tokens) for score in scores])
    if kind == "mean_step_score":
        return np.array([float(score.step_scores.mean()) for score in scores])
    return np.array([float(getattr(score, kind)) for score in scores])


def _outcomes(examples: Sequence[Example]) -> Any:
    return np.array([example.trajectory_label > 0.5 for example in examples])


def _group_ids(examples: Sequence[Example]) -> Any:
    return np.unique([example.group for example in examples], return_inverse=True)[1]


def _step_calibration(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore], claims: Claims
) -> Calibration | None:
    claimed = np.concatenate([score.step_scores for score in scores]).astype(np.float64)
    labels = np.concatenate([example.step_labels for example in examples])
    known = ~np.isnan(labels)
    return calibration(claims.probabilities(claimed[known]), labels[known] > 0.5)


def _located(
    kind: str,
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore],
    thresholds: NDArray[np.float64],
) -> float:
    located = [
        first_error_accuracy([score.step_scores], [e.first_error], float(threshold))
        for e, score, threshold in zip(examples, scores, thresholds, strict=True)
        if e.kind == kind
    ]
    return float(np.mean([found.wrong_located for found in located]))
