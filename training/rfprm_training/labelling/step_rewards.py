"""Step rewards of ReasonFlux-PRM (arXiv 2506.18896, section 3) as functions over arrays.

Knows vectors and numbers, but no text, encoder or expert. Each component is mapped to [0, 1] by a
monotone map that its function states, because the paper fuses them by a softmax over their values
and its coherence is an unbounded logarithm. What the paper leaves open is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rfprm_training import TrainingError

FloatArray = NDArray[np.float64]

COMPONENTS = ("alignment", "quality", "coherence")
"""The components of a step reward, in the paper's order."""
_BLOCK_VALUES = 2**22


def cosine(left: ArrayLike, right: ArrayLike) -> FloatArray:
    """Cosine of vectors ``[..., d]`` along their last axis, in [-1, 1]; 0 if either is zero."""
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if a.shape[-1] != b.shape[-1]:
        raise TrainingError(
            f"vectors of {a.shape[-1]} and {b.shape[-1]} dimensions cannot be compared; encode "
            "both with the same encoder"
        )
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    products = (a * b).sum(axis=-1)
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    cosines: FloatArray = np.clip(found, -1.0, 1.0)
    return cosines


def alignment_rewards(
    steps: ArrayLike, response: ArrayLike, paired_with: ArrayLike | None = None
) -> FloatArray:
    """r_align, float64 [T]: how well each step agrees with the response step it leads to.

    cos(Φ(s_t), Φ(a_t)), mapped by (1 + cos) / 2. ``steps`` [T, d] and ``response`` [R, d] are
    sentence vectors. ``paired_with`` int [T] holds the response step of each step (see
    :func:`.pairing.pair_steps`); -1 means none, and gives NaN. Without it, each step goes with the
    most similar response step.

    Raises :class:`TrainingError` if an index is out of range or vectors differ in length.
    """
    s, a = _vectors(steps, "steps"), _vectors(response, "response")
    if not len(a):
        return np.full(len(s), np.nan)
    if paired_with is None:
        # In blocks, so that memory does not grow with the number of pairs.
        rows = max(1, _BLOCK_VALUES // a.size)
        blocks = [s[start : start + rows, None, :] for start in range(0, len(s), rows)]
        most = [cosine(block, a[None, :, :]).max(axis=1) for block in blocks]
        nearest: FloatArray = (1 + np.concatenate(most)) / 2
        return nearest
    index = np.asarray(paired_with, np.int64)
    if index.shape != (len(s),) or (index >= len(a)).any() or (index < -1).any():
        raise TrainingError(
            f"paired_with has shape {index.shape} and values {index.min(initial=0)} to "
            f"{index.max(initial=0)}, expected one of -1 to {len(a) - 1} for each of "
            f"{len(s)} steps"
        )
    return np.where(index < 0, np.nan, (1 + cosine(s, a[index])) / 2)


def coherence_log_ratio(
    previous: ArrayLike, steps: ArrayLike, negatives: ArrayLike, *, temperature: float
) -> FloatArray:
    """The paper's r_coh, float64 [T], unbounded: the contrastive mutual information

    log( exp(cos(Φ(s_t-1), Φ(s_t)) / τ) / Σ_s' exp(cos(Φ(s_t-1), Φ(s')) / τ) ).

    ``previous`` and ``steps`` [T, d]; ``negatives`` [T, N, d] or [N, d], steps of unrelated
    trajectories. Raises :class:`TrainingError` for τ ≤ 0 or no negatives.
    """
    if not temperature > 0:
        raise TrainingError(f"the temperature is {temperature}, expected more than 0")
    before, after = _vectors(previous, "previous"), _vectors(steps, "steps")
    others = np.asarray(negatives, np.float64)
    if others.ndim not in (2, 3) or others.shape[-2] == 0:
        raise TrainingError(
            f"negatives have shape {others.shape}, expected [T, N, d] or [N, d] with N ≥ 1: "
            "coherence compares a step with steps of other trajectories"
        )
    positive = cosine(before, after) / temperature
    against = cosine(before[:, None, :], others) / temperature
    largest = against.max(axis=1)
    total = largest + np.log(np.exp(against - largest[:, None]).sum(axis=1))
    ratio: FloatArray = positive - total
    return ratio


def coherence_rewards(
    previous: ArrayLike, steps: ArrayLike, negatives: ArrayLike, *, temperature: float
) -> FloatArray:
    """r_coh in [0, 1], float64 [T]: σ(log-ratio + log N), with N negatives.

    This equals e^(cos/τ) / (e^(cos/τ) + mean of the negatives' e^(cos/τ)): 0.5 for a step that
    follows no better than a random one, for any N. Arguments and errors as in
    :func:`coherence_log_ratio`.
    """
    ratio = coherence_log_ratio(previous, steps, negatives, temperature=temperature)
    return _sigmoid(ratio + np.log(np.asarray(negatives).shape[-2]))


def quality_rewards(grades: ArrayLike, *, lowest: float, highest: float) -> FloatArray:
    """r_qual, float64 [T]: an expert's grades on [lowest, highest], mapped linearly to [0, 1].

    NaN (not judged) stays NaN. Raises :class:`TrainingError` for a grade outside the scale.
    """
    values = np.asarray(grades, np.float64)
    if not highest > lowest:
        raise TrainingError(
            f"the scale goes from {lowest} to {highest}, expected a highest above the lowest"
        )
    outside = values[(values < lowest) | (values > highest)]
    if outside.size:
        raise TrainingError(f"a grade is {outside[0]}, expected {lowest} to {highest}")
    return (values - lowest) / (highest - lowest)


def fuse(components: Mapping[str, ArrayLike], *, temperature: float = 1.0) -> FloatArray:
    """The step reward, float64 [T]: Σ_k softmax(r_1, …, r_K)_k · r_k over the known components.

    ``components`` maps names to arrays [T] in [0, 1]; NaN means unknown and is ignored. A step
    without a known component gets NaN. ``temperature`` divides the values in the softmax; 1 is the
    paper's. The result lies between the smallest and the largest component.
    Raises :class:`TrainingError` for arrays of unequal length or values outside [0, 1].
    """
    if not temperature > 0:
        raise TrainingError(f"the temperature is {temperature}, expected more than 0")
    if not components:
        raise TrainingError(f"no component to fuse, expected at least one of {COMPONENTS}")
    lengths = {name: np.shape(values) for name, values in components.items()}
    if len(set(lengths.values())) > 1:
        raise TrainingError(f"components of one trajectory differ in shape: {lengths}")
    values = np.stack([np.asarray(values, np.float64) for values in components.values()])
    if ((values < 0) | (values > 1)).any():
        raise TrainingError(
            f"components range from {np.nanmin(values)} to {np.nanmax(values)}, expected [0, 1]; "
            "map them first"
        )
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    weights = np.where(known, np.exp(filled / temperature), 0.0)
    total = weights.sum(axis=0)
    fused = np.divide(
        (weights * filled).sum(axis=0), total, out=np.full(total.shape, np.nan), where=total > 0
    )
    # Rounding may leave the mean a bit outside [0, 1].
    clipped: FloatArray = np.clip(fused, 0.0, 1.0)
    return clipped


def _vectors(values: ArrayLike, name: str) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.ndim != 2:
        raise TrainingError(f"{name} has shape {array.shape}, expected [number, dimensions]")
    return array


def _sigmoid(values: FloatArray) -> FloatArray:
    small = np.exp(-np.abs(values))  # never overflows
    return np.where(values >= 0, 1.0, small) / (1.0 + small)
