"""Turns the logits at marker rows into scores in [0, 1]. Knows no tokens and no text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest, Readout
from rfprm_runtime.errors import BackendError
from rfprm_runtime.scores.aggregation import trajectory_reward
from rfprm_runtime.types import TrajectoryScore

Float32Array = NDArray[np.float32]


def read_scores(logits: Float32Array, readout: Readout) -> Float32Array:
    """Scores float32 [num_markers] from ``logits`` float32 [num_markers, num_labels].

    Raises :class:`BackendError` for a score that is not a number.
    """
    scores = _scores_of(logits, readout)
    if not np.isfinite(scores).all():
        raise BackendError(
            f"the readout {readout.transform!r} made {scores.tolist()} of the logits "
            f"{logits.tolist()}, expected scores in [0, 1]; the manifest's readout is damaged: "
            "export the model again"
        )
    return scores


def _scores_of(logits: Float32Array, readout: Readout) -> Float32Array:
    if readout.calibration is not None:
        odds = log_odds(logits, readout)
        scale = np.float32(1 / readout.calibration.temperature)
        return sigmoid(odds * scale + np.float32(readout.calibration.bias))
    if readout.transform == "sigmoid":
        return sigmoid(logits[:, readout.positive])
    return softmax(logits)[:, readout.positive]


def assemble_score(
    manifest: Manifest,
    step_scores: Float32Array,
    closing_logits: Float32Array,
    *,
    num_tokens: int,
    windowed_from: int | None = None,
) -> TrajectoryScore:
    """The score of a trajectory. ``closing_logits`` [1, num_labels], of the trajectory's marker,
    are not read if the PRM has none."""
    readout = manifest.trajectory_readout
    trajectory_score = None if readout is None else float(read_scores(closing_logits, readout)[0])
    return TrajectoryScore(
        step_scores=step_scores,
        trajectory_score=trajectory_score,
        reward=trajectory_reward(step_scores, trajectory_score, manifest.alpha),
        num_tokens=num_tokens,
        windowed_from=windowed_from,
    )


def log_odds(logits: Float32Array, readout: Readout) -> Float32Array:
    """log p / (1 − p) of each score before calibration, float32 [num_markers]."""
    positive = logits[:, readout.positive]
    if readout.transform == "sigmoid":
        return positive
    others = np.delete(logits, readout.positive, axis=1)
    largest = others.max(axis=1)
    rest = np.log(np.exp(others - largest[:, None]).sum(axis=1))
    result: Float32Array = (positive - largest - rest).astype(np.float32, copy=False)
    return result


def sigmoid(x: Float32Array) -> Float32Array:
    # Both branches exponentiate a number <= 0, so nothing overflows.
    small = np.exp(-np.abs(x))
    scores = np.where(x >= 0, np.float32(1.0), small) / (np.float32(1.0) + small)
    return scores.astype(np.float32, copy=False)


def softmax(logits: Float32Array) -> Float32Array:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Float32Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
