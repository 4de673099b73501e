"""Collects the nodes of an ONNX graph and writes its weights. Knows ONNX, no networks."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rfprm_export.float_types import NARROW_TYPES, FloatType, narrowed
from rfprm_export.quantization import LARGEST_FP8, QuantizedWeight, usable_scale

_IR_VERSION = 11
_ALIGNMENT = 64  # bytes; lets a runtime load mapped weights into vector registers


class GraphBuilder:
    """Nodes and weights of one graph.

    Each weight goes straight to the data file, so memory stays flat and the graph stays far below
    protobuf's limit of 2 GB.
    """

    def __init__(self, data: BinaryIO, data_name: str, float_type: FloatType = "fp32") -> None:
        self._data = data
        self._data_name = data_name
        self.float_type: FloatType = float_type
        """The type of the weights written from here on."""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node; returns the name of its output, or a list of names."""
        base = f"{kind}_{len(self._nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{index}" for index in range(outputs)]
        self._nodes.append(
            helper.make_node(kind, list(inputs), names, name=base, domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def widen(self, x: str) -> str:
        """``x`` in float32, and float32 from here on."""
        if self.float_type == "fp32":
            return x
        self.float_type = "fp32"
        out: str = self.op("Cast", x, to=TensorProto.FLOAT)
        return out

    def output(self, source: str, name: str) -> None:
        self._nodes.append(helper.make_node("Identity", [source], [name], name=name))

    def constant(self, name: str, values: Any, dtype: type = np.int64) -> str:
        """A small tensor inside the graph; a name is written once."""
        if name not in self._initializers:
            array: NDArray[Any] = np.asarray(values, dtype=dtype)
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, array: NDArray[np.float32]) -> str:
        """A tensor in the data file, in the float type."""
        if self.float_type == "fp32":
            return self._external(name, np.asarray(array, np.float32), TensorProto.FLOAT)
        values = narrowed(array, self.float_type, name)
        return self._external(name, values, NARROW_TYPES[self.float_type].onnx_type)

    def _external(self, name: str, array: NDArray[Any], data_type: int) -> str:
        self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT))
        offset = self._data.tell()
        self._data.write(np.ascontiguousarray(array).view(np.uint8).data)
        tensor = TensorProto(
            name=name,
            data_type=data_type,
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {
            "location": self._data_name,
            "offset": str(offset),
            "length": str(self._data.tell() - offset),
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self._initializers[name] = tensor
        return name

    def quantized_weight(self, name: str, weight: QuantizedWeight) -> str:
        """An 8-bit tensor in the data file, dequantised to the float type."""
        values = self._external(name, weight.values, weight.onnx_type)
        return self._dequantized(values, self._scales(name, weight.scales), axis=1)

    def rounded_to_fp8(self, name: str, x: str, largest: float) -> str:
        """``x`` rounded to e4m3, scaled so that ``largest`` is its largest value."""
        scales = self._scales(f"{name}.input", usable_scale(largest / LARGEST_FP8))
        zero = f"{name}.input_zero"
        self._initializers[zero] = TensorProto(
            name=zero, data_type=TensorProto.FLOAT8E4M3FN, raw_data=b"\0"
        )
        return self._dequantized(self.op("QuantizeLinear", x, scales, zero), scales)

    def _dequantized(self, whole: str, scales: str, **attributes: Any) -> str:
        out: str = self.op(
            "DequantizeLinear", whole, scales, output_dtype=self._onnx_type, **attributes
        )
        return out

    @property
    def _onnx_type(self) -> int:
        """The type that ops compute in."""
        narrow = NARROW_TYPES.get(self.float_type)
        return TensorProto.FLOAT if narrow is None else narrow.onnx_type

    def _scales(self, name: str, scales: NDArray[np.float32]) -> str:
        return self._external(f"{name}_scale", scales, TensorProto.FLOAT)

    def model(
        self, inputs: list[onnx.ValueInfoProto], outputs: dict[str, list[Any]], opset: int
    ) -> onnx.ModelProto:
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in outputs.items()
        ]
        graph = helper.make_graph(
            self._nodes, "prm", inputs, results, list(self._initializers.values())
        )
        domains = {node.domain for node in self._nodes} - {""}
        opsets = [helper.make_opsetid("", opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="rfprm_export"
        )


class RoundingBuilder(GraphBuilder):
    """Computes in float32 and rounds every result to the float type.

    A GPU does the same: it sums products in float32. Where it fuses several ops, it rounds less
    often.
    """

    _ROUNDED = frozenset(
        (
            "Add",
            "Attention",
            "DequantizeLinear",
            "MatMul",
            "Mul",
            "RMSNormalization",
            "RotaryEmbedding",
            "Sigmoid",
        )
    )

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        result = super().op(kind, *inputs, outputs=outputs, domain=domain, **attributes)
        if kind not in self._ROUNDED or self.float_type == "fp32":
            return result
        # ONNX Runtime keeps both casts, because the first one rounds.
        narrow = super().op("Cast", result, to=NARROW_TYPES[self.float_type].onnx_type)
        return super().op("Cast", narrow, to=TensorProto.FLOAT)

    @property
    def _onnx_type(self) -> int:
        return TensorProto.FLOAT

    def widen(self, x: str) -> str:
        self.float_type = "fp32"
        return x

    def weight(self, name: str, array: NDArray[np.float32]) -> str:
        if self.float_type != "fp32":
            array = narrowed(array, self.float_type, name).astype(np.float32)
        return self._external(name, np.asarray(array, np.float32), TensorProto.FLOAT)
