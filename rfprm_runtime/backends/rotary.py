"""Rotary position tables, shared by the reference network and the exported graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rotary_tables(
    num_positions: int, head_dim: int, theta: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin, float32 [num_positions, head_dim / 2] each (RoFormer, arXiv 2104.09864)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    angles = np.outer(np.arange(num_positions, dtype=np.float64), theta**-exponents)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
