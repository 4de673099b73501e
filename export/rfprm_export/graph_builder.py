"""Nodes and weights of an ONNX graph as they come. Knows ONNX and no networks."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rfprm_export.float_types import NARROW_TYPES, FloatType, narrowed
from rfprm_export.quantization import LARGEST_FP8, QuantizedWeight, usable_scale

_IR_VERSION = 11
_ALIGNMENT = 64  # bytes; lets an engine map weights straight into vector loads


class GraphBuilder:
    """Nodes and weights of one graph.

    Weights go to the data file as they come, so memory stays flat and the 2 GB limit of protobuf
    is never near.
    """

    def __init__(self, data: BinaryIO, data_name: str, float_type: FloatType = "fp32") -> None:
        self._data = data
        self._data_name = data_name
        self.float_type: FloatType = float_type
        """In which weights are written, from here on."""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node; returns the name of its output, or a list of them."""
        base = f"{kind}_{len(self._nodes)}"
        names = [base] if outputs == 1 else [f"{base}_{index}" for index in range(outputs)]
        self._nodes.append(
            helper.make_node(kind, list(inputs), names, name=base, domain=domain, **attributes)
        )
        return names[0] if outputs == 1 else names

    def widen(self, x: str) -> str:
        """Go on in float32 with ``x``."""
        if self.float_type == "fp32":
            return x
        self.float_type = "fp32"
        out: str = self.op("Cast", x, to=TensorProto.FLOAT)
        return out

    def output(self, source: str, name: str) -> None:
        self._nodes.append(helper.make_node("Identity", [source], [name], name=name))

    def constant(self, name: str, values: Any, dtype: type = np.int64) -> str:
        """A small tensor inside the graph; the same name is written once."""
        if name not in self._initializers:
            array: NDArray[Any] = np.asarray(values, dtype=dtype)
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, array: NDArray[np.float32]) -> str:
        """A tensor of the float type in the data file."""
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
        """A tensor of 8 bits in the data file; returns it in the float type."""
        values = self._external(name, weight.values, weight.onnx_type)
        return self._dequantized(values, self._scales(name, weight.scales), axis=1)

    def rounded_to_fp8(self, name: str, x: str, largest: float) -> str:
        """``x`` in steps of e4m3, of which ``largest`` is the last."""
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
        """Of what the ops compute."""
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

    So does a GPU, whose products are summed in float32; it rounds more rarely where it runs several
    ops as one.
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
        # Two casts that undo each other are left alone by ONNX Runtime: the first one rounds.
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
