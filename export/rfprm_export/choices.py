"""The options of an export, importable without onnx or TensorRT."""

from __future__ import annotations

from typing import Literal

from rfprm_runtime.artifact.manifest import Precision as Precision

ModelFormat = Literal["onnx", "native", "torch"]
QUANTIZED_PRECISIONS = ("fp8", "w8a16")
"""Graphs with 8-bit linears, for TensorRT."""
NATIVE_PRECISIONS = ("int16", "int8")
"""What the native kernels read; the others are graphs."""
AttentionOp = Literal["group_query", "standard"]
AttentionChoice = Literal["auto", "group_query", "standard"]
