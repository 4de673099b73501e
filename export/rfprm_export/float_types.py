"""The float types that GPUs compute in. Knows numbers, no graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from rfprm_export import ExportError
from rfprm_export.choices import Precision

FloatType = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class NarrowType:
    numpy_type: Any
    onnx_type: int
    largest: float


NARROW_TYPES = {
    "fp16": NarrowType(np.float16, TensorProto.FLOAT16, 65504.0),
    "bf16": NarrowType(ml_dtypes.bfloat16, TensorProto.BFLOAT16, 3.38e38),
}


def float_type_of(precision: Precision) -> FloatType:
    """The float type that a graph of ``precision`` computes in; fp32 also for native models. With
    8-bit linears, :class:`~rfprm_export.quantization.Quantization` has it."""
    return precision if precision in ("fp16", "bf16") else "fp32"


def narrowed(array: NDArray[np.float32], float_type: FloatType, name: str) -> NDArray[Any]:
    """``array`` rounded to ``float_type``. Raises :class:`ExportError` if it does not fit."""
    narrow = NARROW_TYPES[float_type]
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= narrow.largest:
        raise ExportError(
            f"{name} holds {largest:.3g}, but {float_type} ends at {narrow.largest:.3g}; export "
            "with --precision bf16 or fp32"
        )
    result: NDArray[Any] = np.asarray(array, np.float32).astype(narrow.numpy_type)
    return result
