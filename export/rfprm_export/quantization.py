"""8-bit linears for GPUs: which linears, and with which scales.

``fp8``: weights and inputs in e4m3 (Micikevicius et al., arXiv 2209.05433), with one scale per
tensor; the inputs' scales are measured on real traces. ``w8a16``: weights in int8 with one scale
per column, inputs unchanged; it halves the memory traffic and needs no calibration. Knows numbers,
no graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from rfprm_export.float_types import FloatType

LARGEST_FP8 = 448.0
"""The largest e4m3 number; larger values are clipped."""


@dataclass(frozen=True)
class Quantization:
    """How the linears of the layers are stored and computed."""

    kind: Literal["fp8", "w8a16"]
    float_type: FloatType = "bf16"
    """The type of everything else."""
    largest_inputs: Mapping[str, float] = field(default_factory=dict)
    """For fp8: linear (``model.layers.0.self_attn.qkv``) → the largest magnitude of its inputs on
    the calibration traces."""
    kept: frozenset[str] = frozenset()
    """Linears that keep the float type."""

    def applies_to(self, name: str) -> bool:
        return name.startswith("model.layers.") and name not in self.kept


@dataclass(frozen=True)
class QuantizedWeight:
    values: NDArray[Any]
    onnx_type: int
    scales: NDArray[np.float32]  # [], or [columns]


def quantize_weight(matrix: NDArray[np.float32], kind: Literal["fp8", "w8a16"]) -> QuantizedWeight:
    """``matrix`` [in, out] in 8 bits; a column of zeros still gets a positive scale."""
    if kind == "fp8":
        scale = usable_scale(np.abs(matrix).max() / LARGEST_FP8)
        values = np.clip(matrix / scale, -LARGEST_FP8, LARGEST_FP8)
        return QuantizedWeight(
            values.astype(ml_dtypes.float8_e4m3fn), TensorProto.FLOAT8E4M3FN, scale
        )
    scales = usable_scale(np.abs(matrix).max(axis=0) / 127)
    values = np.clip(np.rint(matrix / scales), -127, 127)
    return QuantizedWeight(values.astype(np.int8), TensorProto.INT8, scales)


def usable_scale(scale: Any) -> NDArray[np.float32]:
    """``scale`` as a positive float32. Scales are stored in float32 in every graph: 16 bits would
    round them after the division."""
    result: NDArray[np.float32] = np.maximum(np.asarray(scale, np.float32), np.float32(1e-12))
    return result
