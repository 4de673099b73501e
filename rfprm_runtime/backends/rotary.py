"""Rotary position tables, shared by the reference network and the exported graph."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.artifact.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling

_AT_ONCE = 2**14
"""Positions whose float64 angles are in memory at once."""


def rotary_tables(
    num_positions: int, shape: Backbone
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin, float32 [num_positions, head_dim / 2] each (RoFormer, arXiv 2104.09864)."""
    frequencies, length = rotary_frequencies(shape), 1.0
    if isinstance(shape.rope_scaling, YarnScaling):
        length = shape.rope_scaling.attention_factor
    cos = np.empty((num_positions, len(frequencies)), np.float32)
    sin = np.empty_like(cos)
    for begin in range(0, num_positions, _AT_ONCE):
        end = min(begin + _AT_ONCE, num_positions)
        angles = np.outer(np.arange(begin, end, dtype=np.float64), frequencies)
        cos[begin:end], sin[begin:end] = length * np.cos(angles), length * np.sin(angles)
    return cos, sin


def rotary_frequencies(shape: Backbone) -> NDArray[np.float64]:
    """Radians per position of each pair of dimensions, float64 [head_dim / 2]."""
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim
    plain, scaling = shape.rope_theta**-exponents, shape.rope_scaling
    match scaling:
        case None:
            return plain
        case LinearScaling():
            kept = np.zeros_like(plain)
        case Llama3Scaling():
            turns = scaling.original_max_positions * plain / (2 * math.pi)
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            kept = np.clip((turns - low) / (high - low), 0, 1)
        case YarnScaling():
            kept = 1 - _divided_share(shape, scaling)
    return plain * (kept + (1 - kept) / scaling.factor)


def _divided_share(shape: Backbone, scaling: YarnScaling) -> NDArray[np.float64]:
    """How far each pair of dimensions is divided in YaRN: a ramp from 0 to 1."""

    def pair_that_turns(times: float) -> float:
        whole = scaling.original_max_positions / (2 * math.pi * times)
        return shape.head_dim * math.log(whole) / (2 * math.log(shape.rope_theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, shape.head_dim - 1)
    width = (last - first) or 1e-3
    return np.clip((np.arange(shape.head_dim // 2) - first) / width, 0, 1)
