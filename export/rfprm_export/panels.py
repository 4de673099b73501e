"""The weights of a linear for the native kernels: panels of integers, in reading order.

Each output column has its own scale. A panel has 64 columns; inputs are grouped in pairs of 16 bits
or fours of 8 bits, because one instruction multiplies a group with 16 columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.stored_weights import Weights
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.backends.native.limits import (
    HALF_PANEL,
    LINEARS,
    PANEL,
    input_limit,
    padded_inner,
)

MAX_WEIGHT = 2047
"""Weights of 16-bit linears have 12 bits, which leaves more of a sum's 32 bits to the inputs, whose
range is wider."""
MAX_8_BIT_WEIGHT = 127
_ROWS_AT_ONCE = 32 * PANEL


def linear_names(shape: Backbone) -> list[str]:
    """The linears of all layers in the order they run: ``layers.0.qkv``, …"""
    return [f"layers.{index}.{part}" for index in range(shape.num_layers) for part in LINEARS]


@dataclass(frozen=True)
class LinearPanels:
    panels: NDArray[np.int16] | NDArray[np.int8]
    """[width / 64, depth / 2, 64, 2] of 16 bits, [width / 64, depth / 4, 64, 4] of 8."""
    scales: NDArray[np.float32]  # [width]
    limit: float
    """See :func:`~rfprm_runtime.backends.native.limits.input_limit`. Infinite for an 8-bit linear,
    whose sums always fit."""
    sums: NDArray[np.int32] | None = None  # [width], the sum of each column's 8-bit weights


def linear_panels(
    matrix: NDArray[np.float32], depth: int, width: int, *, bits: int = 16
) -> LinearPanels:
    """``matrix`` [out, in] as integers, zero-padded to [``width``, ``depth``]."""
    if not np.isfinite(matrix).all():
        raise ExportError(
            f"a weight of shape {matrix.shape} holds numbers that are not finite; the checkpoint "
            "is damaged, train or download it again"
        )
    group, kind = (4, np.int8) if bits == 8 else (2, np.int16)
    panels = np.empty((width // PANEL, depth // group, PANEL, group), kind)
    scales = np.ones(width, np.float32)
    sums, longest = np.zeros(width, np.int32), 0
    for begin in range(0, width, _ROWS_AT_ONCE):  # whole panels, and no second matrix in memory
        rows = slice(begin, min(begin + _ROWS_AT_ONCE, width))
        padded = np.zeros((rows.stop - begin, depth), np.float32)
        given = matrix[rows]
        padded[: len(given), : matrix.shape[1]] = given
        scales[rows] = units_of_rows(padded, MAX_WEIGHT if bits == 16 else MAX_8_BIT_WEIGHT)
        whole = np.rint(padded / scales[rows, None])
        grouped = whole.astype(kind).reshape(-1, PANEL, depth // group, group)
        panels[begin // PANEL : rows.stop // PANEL] = grouped.transpose(0, 2, 1, 3)
        sums[rows] = whole.sum(axis=1)
        longest = max(longest, int((whole.astype(np.float64) ** 2).sum(axis=1).max()))
    if bits == 8:
        return LinearPanels(panels, scales, np.inf, sums)
    return LinearPanels(panels, scales, input_limit(longest, depth))


def most_rounded(shape: Backbone, weights: Weights, count: int = 3) -> list[str]:
    """The linears whose weights lose most by rounding, worst first, with the share lost."""
    found = []
    for index in range(shape.num_layers):
        for part in LINEARS:
            matrix, _ = joined_linear(weights, f"model.layers.{index}", part, shape)
            found.append((_share_lost(matrix), f"layer {index} {part}"))
    return [f"{name} ({share:.1e})" for share, name in sorted(found, reverse=True)[:count]]


def _share_lost(matrix: NDArray[np.float32]) -> float:
    """By rounding to 16 bits, of the matrix's norm; no second matrix in memory."""
    lost = size = 0.0
    for begin in range(0, len(matrix), _ROWS_AT_ONCE):
        rows = matrix[begin : begin + _ROWS_AT_ONCE]
        units = units_of_rows(rows, MAX_WEIGHT)[:, None]
        lost += float(np.linalg.norm(np.rint(rows / units) * units - rows)) ** 2
        size += float(np.linalg.norm(rows)) ** 2
    return math.sqrt(lost / max(size, 1e-60))


def joined_linear(
    weights: Weights, layer: str, part: str, shape: Backbone
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Matrix [out, in] and bias of one linear, in the kernels' column order."""
    if part == "gate_up":
        names = [f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"]
        gate, up = (_halves(weights[f"{name}.weight"], shape) for name in names)
        matrix = np.stack([gate, up], axis=1).reshape(-1, shape.hidden_size)
        if f"{names[0]}.bias" not in weights:
            return matrix, None
        gate, up = (_halves(weights[f"{name}.bias"][:, None], shape) for name in names)
        return matrix, np.stack([gate, up], axis=1).reshape(-1)
    names = {
        "qkv": [f"{layer}.self_attn.{kind}_proj" for kind in "qkv"],
        "output": [f"{layer}.self_attn.o_proj"],
        "down": [f"{layer}.mlp.down_proj"],
    }[part]
    matrix = np.concatenate([weights[f"{name}.weight"] for name in names])
    if f"{names[0]}.bias" not in weights:
        return matrix, None
    return matrix, np.concatenate([weights[f"{name}.bias"] for name in names])


def _halves(rows: NDArray[np.float32], shape: Backbone) -> NDArray[np.float32]:
    """[inner, n] → [groups, 32, n], zero-padded."""
    padded = np.zeros((padded_inner(shape), rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded.reshape(-1, HALF_PANEL, rows.shape[1])


def padded_bias(bias: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    result = np.zeros(width, np.float32)
    result[: len(bias)] = bias
    return result


def units_of_rows(rows: NDArray[np.float32], largest: int) -> NDArray[np.float32]:
    """The size of an integer unit for each row."""
    units = np.abs(rows).max(axis=1) / np.float32(largest)
    return np.where(units > 0, units, 1.0).astype(np.float32)
