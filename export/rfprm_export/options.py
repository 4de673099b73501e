"""The choices an export has, importable without any engine."""

from __future__ import annotations

from typing import Literal

from rfprm_runtime.artifact.manifest import Precision as Precision

ModelFormat = Literal["onnx", "native", "torch"]
QUANTIZED_PRECISIONS = ("fp8", "w8a16")
"""Graphs with products of 8 bits, for TensorRT."""
NATIVE_PRECISIONS = ("int16", "int8")
"""What the native kernels read; the others are graphs."""
AttentionOp = Literal["group_query", "standard"]
AttentionChoice = Literal["auto", "group_query", "standard"]
