"""Writes the weights for the native kernels: panels of integers, in reading order.

Each output column has its own scale. A panel has 64 columns; inputs are grouped in pairs of 16 bits
or fours of 8 bits, because one instruction multiplies a group with 16 columns.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.backends.native.limits import (
    HALF_PANEL,
    LINEARS,
    PANEL,
    check_shape,
    input_limit,
    linear_shapes,
    padded_inner,
)
from rfprm_runtime.backends.native.model_file import LAYOUT

MAX_WEIGHT = 2047
"""Weights of 16-bit linears have 12 bits, which leaves more of a sum's 32 bits to the inputs, whose
range is wider."""
MAX_8_BIT_WEIGHT = 127
_DTYPE_NAMES = {"int8": "I8", "int32": "I32", "int16": "I16", "float32": "F32", "float64": "F64"}
_ALIGNMENT = 64

Weights = Mapping[str, NDArray[np.float32]]


def linear_names(shape: Backbone) -> list[str]:
    """The linears of all layers in the order they run: ``layers.0.qkv``, …"""
    return [f"layers.{index}.{part}" for index in range(shape.num_layers) for part in LINEARS]


def write_native(
    path: Path, shape: Backbone, head: Head, weights: Weights, *, in_8_bits: Collection[str] = ()
) -> Path:
    """Write the model to ``path``, under the names of
    :mod:`rfprm_runtime.backends.native.model_file`.

    The linears in ``in_8_bits`` get 8 bits, the others 16. Raises :class:`ExportError` for a shape
    that the kernels do not support.
    """
    check_shape(shape, refusal=ExportError)
    tensors: dict[str, NDArray[Any]] = {}
    small: dict[str, NDArray[Any]] = {}
    limits = np.zeros((shape.num_layers, len(LINEARS)))
    sizes = linear_shapes(shape)
    for index in range(shape.num_layers):
        source, name = f"model.layers.{index}", f"layers.{index}"
        small[f"{name}.attention_norm"] = weights[f"{source}.input_layernorm.weight"]
        small[f"{name}.mlp_norm"] = weights[f"{source}.post_attention_layernorm.weight"]
        if shape.qk_norm:
            small[f"{name}.query_norm"] = weights[f"{source}.self_attn.q_norm.weight"]
            small[f"{name}.key_norm"] = weights[f"{source}.self_attn.k_norm.weight"]
        for number, part in enumerate(LINEARS):
            matrix, bias = _join(weights, source, part, shape)
            bits = 8 if f"{name}.{part}" in in_8_bits else 16
            linear = linear_panels(matrix, *sizes[part], bits=bits)
            tensors[f"{name}.{part}.panels"] = linear.panels
            small[f"{name}.{part}.scales"] = linear.scales
            limits[index, number] = linear.limit
            if linear.sums is not None:
                small[f"{name}.{part}.sums"] = linear.sums
            if bias is not None:
                small[f"{name}.{part}.bias"] = _padded(bias, sizes[part][1])
    table = weights["model.embed_tokens.weight"]
    units = _units(table, 32767)
    tensors["embedding"] = np.rint(table / units[:, None]).astype(np.int16)
    small["embedding_scale"] = units
    small["final_norm"] = weights["model.norm.weight"]
    heads = ["score"] if head.kind == "linear" else ["score.0", "score.2"]
    for number, part in enumerate(heads):
        small[f"head.{number}.weight"] = weights[f"{part}.weight"]
        if f"{part}.bias" in weights:
            small[f"head.{number}.bias"] = weights[f"{part}.bias"]
    write_aligned(path, {**tensors, "activation_limits": limits, **small}, {"layout": LAYOUT})
    return path


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
    padded = np.zeros((width, depth), np.float32)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    scales = _units(padded, MAX_WEIGHT if bits == 16 else MAX_8_BIT_WEIGHT)
    whole = np.rint(padded / scales[:, None])
    if bits == 8:
        fours = whole.astype(np.int8).reshape(width // PANEL, PANEL, depth // 4, 4)
        sums = whole.sum(axis=1).astype(np.int32)
        return LinearPanels(fours.transpose(0, 2, 1, 3), scales, np.inf, sums)
    longest = int((whole.astype(np.float64) ** 2).sum(axis=1).max())
    pairs = whole.astype(np.int16).reshape(width // PANEL, PANEL, depth // 2, 2)
    return LinearPanels(pairs.transpose(0, 2, 1, 3), scales, input_limit(longest, depth))


def most_rounded(shape: Backbone, weights: Weights, count: int = 3) -> list[str]:
    """The linears whose weights lose most by rounding, worst first, with the share lost."""
    found = []
    for index in range(shape.num_layers):
        for part in LINEARS:
            matrix, _ = _join(weights, f"model.layers.{index}", part, shape)
            units = _units(matrix, MAX_WEIGHT)[:, None]
            lost = np.linalg.norm(np.rint(matrix / units) * units - matrix)
            size = max(float(np.linalg.norm(matrix)), 1e-30)
            found.append((float(lost) / size, f"layer {index} {part}"))
    return [f"{name} ({share:.1e})" for share, name in sorted(found, reverse=True)[:count]]


def _join(
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


def _padded(bias: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    result = np.zeros(width, np.float32)
    result[: len(bias)] = bias
    return result


def _units(rows: NDArray[np.float32], largest: int) -> NDArray[np.float32]:
    """The size of an integer unit for each row."""
    units = np.abs(rows).max(axis=1) / np.float32(largest)
    return np.where(units > 0, units, 1.0).astype(np.float32)


def write_aligned(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file whose data begin at a multiple of 64 bytes, for vector loads."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).data)
