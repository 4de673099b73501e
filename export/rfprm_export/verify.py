"""Is the exported model faithful to the reference network?

The reference is the torch network where torch is installed, and otherwise the scores that it gave
when the checkpoint was made. Which one it was is written into the manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rfprm_export import ExportError
from rfprm_export.checkpoint import LoadedPRM, checkpoint_digest, load_prm
from rfprm_runtime.encoding import TrajectoryEncoder
from rfprm_runtime.manifest import Parity
from rfprm_runtime.records import example_traces_path, read_trajectories
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import Trajectory, TrajectoryScore

MAX_DIFFERENCE = {"fp32": 1e-4}
"""Largest difference of any score from the reference, by precision."""
REFERENCE_NAME = "reference_scores.json"


class RecordedScores(BaseModel):
    """``reference_scores.json``: what the reference network said of the example traces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    traces_sha256: str
    checkpoint_sha256: str
    scores: list[TrajectoryScore]


@dataclass(frozen=True)
class Reference:
    """Scores to compare with, and where they are from."""

    description: str
    traces: str
    trajectories: list[Trajectory]
    scores: list[TrajectoryScore]


def reference_for(prm: LoadedPRM, checkpoint: Path, traces: Path | None = None) -> Reference:
    """Score ``traces`` (the shipped examples by default) by the reference network.

    Raises :class:`ExportError` where torch is not installed and there are no recorded scores
    for these traces and this checkpoint.
    """
    path = traces or example_traces_path()
    label = path.name if traces else "shipped examples"
    trajectories = read_trajectories(path)
    if find_spec("torch") is None:
        recorded = _read_recorded(checkpoint, path)
        return Reference(f"recorded: {recorded.reference}", label, trajectories, recorded.scores)
    description, scores = score_by_reference(prm, trajectories)
    return Reference(description, label, trajectories, scores)


def score_by_reference(
    prm: LoadedPRM, trajectories: Sequence[Trajectory]
) -> tuple[str, list[TrajectoryScore]]:
    """The torch network's description and its scores, in float32 on a CPU."""
    from rfprm_runtime.backends.torch import TorchBackend, build_network

    network = build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)
    encoder = TrajectoryEncoder(
        # A copy: an encoder prepares its tokenizer for user text.
        type(prm.tokenizer).from_str(prm.tokenizer.to_str()),
        prm.manifest.prompt,
        vocab_size=prm.manifest.backbone.vocab_size,
    )
    with Scorer(prm.manifest, encoder, TorchBackend(network, device="cpu")) as scorer:
        return scorer.backend_description, scorer.score_batch(trajectories, overflow="window")


def record_reference(checkpoint: Path) -> Path:
    """Write ``reference_scores.json`` into a checkpoint, for exports without torch."""
    path = example_traces_path()
    reference, scores = score_by_reference(load_prm(checkpoint), read_trajectories(path))
    recorded = RecordedScores(
        reference=reference,
        traces_sha256=_digest(path),
        checkpoint_sha256=checkpoint_digest(checkpoint),
        scores=scores,
    )
    target = checkpoint / REFERENCE_NAME
    target.write_text(recorded.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return target


def _read_recorded(checkpoint: Path, traces: Path) -> RecordedScores:
    path = checkpoint / REFERENCE_NAME
    way_out = (
        "; install torch (pip install 'rfprm_runtime[train]') so that the reference network can "
        "run, or pass --no-verify and answer for the artifact yourself"
    )
    if not path.is_file():
        raise ExportError(f"{checkpoint} holds no {REFERENCE_NAME} to verify with{way_out}")
    try:
        recorded = RecordedScores.model_validate(json.loads(path.read_bytes()))
    except ValueError as error:
        raise ExportError(f"{path} is not readable: {error}{way_out}") from None
    if recorded.traces_sha256 != _digest(traces):
        raise ExportError(f"{path} was recorded on other traces than {traces.name}{way_out}")
    if recorded.checkpoint_sha256 != checkpoint_digest(checkpoint):
        raise ExportError(f"{path} was recorded for another state of the checkpoint{way_out}")
    return recorded


def measure_parity(scorer: Scorer, reference: Reference) -> Parity:
    """Compare every step and trajectory score of ``scorer`` with the reference's."""
    ours = _all_scores(scorer.score_batch(reference.trajectories, overflow="window"))
    theirs = _all_scores(reference.scores)
    if not len(ours):
        raise ExportError(f"the traces to verify with ({reference.traces}) hold no trajectory")
    difference = np.abs(ours - theirs)
    return Parity(
        reference=reference.description,
        traces=reference.traces,
        num_trajectories=len(reference.trajectories),
        num_scores=len(ours),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        spearman=rank_correlation(ours, theirs),
    )


def check_parity(parity: Parity, precision: str) -> None:
    """Raises :class:`ExportError` where the model strays further than its precision may."""
    limit = MAX_DIFFERENCE[precision]
    if not parity.max_difference <= limit:  # so written, a NaN fails too
        raise ExportError(
            f"the exported model is not faithful: scores differ from {parity.reference} by up to "
            f"{parity.max_difference:.2e} (mean {parity.mean_difference:.2e}) on "
            f"{parity.traces}, the limit for {precision} is {limit:.0e}; nothing was written"
        )


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's ρ, ties given their mean rank; None where either side is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return None
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_of_tie = np.cumsum(counts)
    mean_rank = last_of_tie - (counts - 1) / 2
    result: NDArray[np.float64] = mean_rank[inverse]
    return result


def _all_scores(scores: Sequence[TrajectoryScore]) -> NDArray[np.float64]:
    parts = [score.step_scores.astype(np.float64) for score in scores]
    parts += [
        np.array([score.trajectory_score]) for score in scores if score.trajectory_score is not None
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
