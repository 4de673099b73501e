"""Rotary position tables, shared by the reference network and the exported graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 2**14
"""Positions whose float64 angles are in memory at once."""


def rotary_tables(
    num_positions: int, head_dim: int, theta: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin, float32 [num_positions, head_dim / 2] each (RoFormer, arXiv 2104.09864)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    cos = np.empty((num_positions, len(exponents)), np.float32)
    sin = np.empty_like(cos)
    for begin in range(0, num_positions, _AT_ONCE):
        end = min(begin + _AT_ONCE, num_positions)
        angles = np.outer(np.arange(begin, end, dtype=np.float64), theta**-exponents)
        cos[begin:end], sin[begin:end] = np.cos(angles), np.sin(angles)
    return cos, sin
