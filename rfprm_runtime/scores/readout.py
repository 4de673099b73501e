"""Turns the logits at marker rows into scores. Knows no tokens and no text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest, Readout
from rfprm_runtime.errors import BackendError
from rfprm_runtime.scores.aggregation import trajectory_reward
from rfprm_runtime.types import TrajectoryScore

Float32Array = NDArray[np.float32]


def read_scores(logits: Float32Array, readout: Readout) -> Float32Array:
    """Scores float32 [num_markers], within :attr:`Readout.bounds`, from ``logits`` float32
    [num_markers, num_labels].

    Raises :class:`BackendError` for a score that is not a number.
    """
    scores = _scores_of(logits, readout)
    if not np.isfinite(scores).all():
        raise BackendError(
            f"the readout {readout.transform!r} made {scores.tolist()} of the logits "
            f"{logits.tolist()}, expected finite scores; the manifest's readout is damaged: "
            "export the model again"
        )
    return scores


def _scores_of(logits: Float32Array, readout: Readout) -> Float32Array:
    scores = _unscaled(logits, readout)
    if readout.scale == 1 and readout.offset == 0:
        return scores
    return scores * np.float32(readout.scale) + np.float32(readout.offset)


def _unscaled(logits: Float32Array, readout: Readout) -> Float32Array:
    if readout.calibration is not None:
        odds = log_odds(logits, readout)
        scale = np.float32(1 / readout.calibration.temperature)
        return sigmoid(odds * scale + np.float32(readout.calibration.bias))
    labels = list(readout.labels)
    if readout.transform == "softmax":
        # One label is not summed: a sum may round, also to more than 1.
        chosen = softmax(logits)[:, labels]
        return chosen[:, 0] if len(labels) == 1 else np.minimum(chosen.sum(axis=1), np.float32(1))
    own = logits[:, labels[0]]
    return sigmoid(own) if readout.transform == "sigmoid" else own


def read_step_scores(logits: Float32Array, manifest: Manifest) -> Float32Array:
    """The scores of steps, float32 [num_steps]; of a reward model without a step readout those of
    prefixes, each read as a whole sequence is."""
    readout = manifest.step_readout or manifest.trajectory_readout
    assert readout is not None  # a manifest has one of them
    return read_scores(logits, readout)


def assemble_score(
    manifest: Manifest,
    step_scores: Float32Array,
    closing_logits: Float32Array,
    *,
    num_tokens: int,
    windowed_from: int | None = None,
    num_run_tokens: int | None = None,
) -> TrajectoryScore:
    """The score of a trajectory. ``closing_logits`` [1, num_labels], of the trajectory's marker,
    are not read if the PRM has none."""
    readout = manifest.trajectory_readout
    trajectory_score = None if readout is None else float(read_scores(closing_logits, readout)[0])
    judged = step_scores if manifest.step_readout is not None else step_scores[:0]
    return TrajectoryScore(
        step_scores=step_scores,
        trajectory_score=trajectory_score,
        reward=trajectory_reward(judged, trajectory_score, manifest.alpha),
        num_tokens=num_tokens,
        windowed_from=windowed_from,
        num_run_tokens=num_run_tokens,
    )


def log_odds(logits: Float32Array, readout: Readout) -> Float32Array:
    """log p / (1 − p) of each score before calibration, float32 [num_markers]; with the transform
    ``none`` the score itself."""
    labels = list(readout.labels)
    if readout.transform != "softmax":
        own: Float32Array = logits[:, labels[0]]
        return own
    others = _log_sum(np.delete(logits, labels, axis=1))
    result: Float32Array = (_log_sum(logits[:, labels]) - others).astype(np.float32, copy=False)
    return result


def _log_sum(logits: Float32Array) -> Float32Array:
    """log Σ exp over the last axis."""
    largest: Float32Array = logits.max(axis=1)
    if logits.shape[1] == 1:
        return largest
    result: Float32Array = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
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
