"""The choices an export has, importable without any engine."""

from __future__ import annotations

from typing import Literal

ModelFormat = Literal["onnx", "native", "torch"]
Precision = Literal["fp32", "int16", "int8"]
AttentionOp = Literal["group_query", "standard"]
AttentionChoice = Literal["auto", "group_query", "standard"]
