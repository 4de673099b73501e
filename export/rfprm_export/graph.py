"""Builds the ONNX graph of a PRM, op by op, from its weights.

Standard ONNX ops only, with one choice: attention is either the standard ``Attention``, which every
runtime reads, or ONNX Runtime's ``GroupQueryAttention``, which is flash attention on a CPU: faster
from about 1,000 tokens on, with memory that grows with the length instead of its square.

Rows are right-padded, attention is causal, and only markers are read, so padding needs neither a
mask nor lengths, which some runtimes silently ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rfprm_export import ExportError
from rfprm_export.choices import AttentionChoice, AttentionOp, Precision
from rfprm_export.float_types import FloatType
from rfprm_export.graph_builder import GraphBuilder, RoundingBuilder
from rfprm_export.quantization import Quantization, quantize_weight
from rfprm_runtime.artifact.manifest import Backbone, Head, Manifest
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.ground.progress import Step

OPSETS: dict[AttentionOp, int] = {"group_query": 23, "standard": 24}
"""23 is the oldest with RMSNormalization and RotaryEmbedding, and the one ONNX Runtime 1.23 reads;
24 has the Attention that other runtimes read."""


def choose_attention(
    backbone: Backbone, requested: AttentionChoice, precision: Precision = "fp32"
) -> AttentionOp:
    """The attention op: for CPUs (fp32) ONNX Runtime's, if it supports the size of the model's
    heads; for GPUs the standard one, which every runtime reads. An explicit request is kept.

    Raises :class:`ExportError` if the requested op does not support the size of the heads.
    """
    fits = backbone.head_dim % 16 == 0
    if requested == "auto":
        return "group_query" if fits and precision == "fp32" else "standard"
    if requested == "group_query" and not fits:
        raise ExportError(
            f"the model's heads have size {backbone.head_dim}, but ONNX Runtime's "
            "GroupQueryAttention supports multiples of 16; export with --attention standard"
        )
    return requested


def write_graph(
    path: Path,
    manifest: Manifest,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    attention: AttentionOp = "group_query",
    float_type: FloatType = "fp32",
    emulated: bool = False,
    quantization: Quantization | None = None,
    watched: bool = False,
    step: Step = lambda done, total: None,
) -> list[Path]:
    """Write ``path`` and its weights beside it; returns the files written. Reads the backbone, the
    head and the number of positions from ``manifest``.

    Inputs: ``token_ids`` int64 [batch, length] right-padded, ``lengths`` int64 [batch] (only
    with ``group_query``), ``marker_positions`` int64 [num_markers] into the flattened
    [batch * length]. Output: ``logits`` float32 [num_markers, num_labels].

    ``float_type`` is that of weights and arithmetic up to the last layer; the final norm and the
    head are float32. With ``emulated`` the graph computes in float32 and rounds every result to
    ``float_type``, for machines without such arithmetic. ``quantization`` applies to the layers'
    linears. With ``watched`` each linear has an additional output ``max:NAME``, the largest
    magnitude of its inputs. ``step`` is called with the layers written and their number.
    """
    data_path = path.with_name(path.name + ".data")
    with data_path.open("wb") as data:
        builder = (RoundingBuilder if emulated else GraphBuilder)(data, data_path.name, float_type)
        network = NetworkGraph(
            builder,
            manifest.backbone,
            weights,
            manifest.max_positions,
            attention,
            quantization,
            watched,
            step,
        )
        builder.output(network.logits(manifest.head), "logits")
        outputs = {"logits": ["num_markers", manifest.head.num_labels]}
        for name, largest in network.watched.items():
            builder.output(largest, f"max:{name}")
            outputs[f"max:{name}"] = []
        model = builder.model(network.inputs(), outputs, OPSETS[attention])
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))  # given a path, it also checks the external weights
    return [path, data_path]


class NetworkGraph:
    """The network of ``rfprm_runtime.backends.torch.PRMNetwork`` as graph nodes."""

    def __init__(
        self,
        builder: GraphBuilder,
        backbone: Backbone,
        weights: Mapping[str, NDArray[np.float32]],
        max_positions: int,
        attention: AttentionOp,
        quantization: Quantization | None = None,
        watched: bool = False,
        step: Step = lambda done, total: None,
    ) -> None:
        self.b = builder
        self.shape = backbone
        self.weights = weights
        self.attention = attention
        self.quantization = quantization
        self.watched: dict[str, str] = {}
        """Linear → the output with the largest magnitude of its inputs."""
        self._watch, self._step = watched, step
        cos, sin = rotary_tables(max_positions, backbone)
        self.cos, self.sin = builder.weight("rotary.cos", cos), builder.weight("rotary.sin", sin)
        self._prepare_positions()

    def inputs(self) -> list[onnx.ValueInfoProto]:
        names: dict[str, list[str]] = {"token_ids": ["batch", "length"]}
        if self.attention == "group_query":
            names["lengths"] = ["batch"]
        names["marker_positions"] = ["num_markers"]
        return [
            helper.make_tensor_value_info(name, TensorProto.INT64, dims)
            for name, dims in names.items()
        ]

    def logits(self, head: Head) -> str:
        table = self.b.weight("embed_tokens", self.weights["model.embed_tokens.weight"])
        hidden: str = self.b.op("Gather", table, "token_ids")
        last = self.shape.num_layers - 1
        for index in range(self.shape.num_layers):
            hidden = self._layer(f"model.layers.{index}", hidden, only_markers=index == last)
            self._step(index + 1, self.shape.num_layers)
        return self._head(head, self._norm("model.norm", self.b.widen(hidden)))

    def _layer(self, name: str, hidden: str, *, only_markers: bool) -> str:
        mixed = self._attend(f"{name}.self_attn", self._norm(f"{name}.input_layernorm", hidden))
        if only_markers:  # after the last attention, only the markers are read
            hidden, mixed = self._marker_rows(hidden), self._marker_rows(mixed)
        hidden = self.b.op("Add", hidden, self._linear(f"{name}.self_attn.o_proj", mixed))
        normed = self._norm(f"{name}.post_attention_layernorm", hidden)
        out: str = self.b.op("Add", hidden, self._mlp(f"{name}.mlp", normed))
        return out

    def _marker_rows(self, hidden: str) -> str:
        """[batch, length, size] → [num_markers, size]."""
        size = self.b.op("Shape", hidden, start=2, end=3)
        minus_one = self.b.constant("minus_one", [-1])
        flat = self.b.op("Reshape", hidden, self.b.op("Concat", minus_one, size, axis=0))
        out: str = self.b.op("Gather", flat, "marker_positions")
        return out

    def _mlp(self, name: str, x: str) -> str:
        fused = self._fused_linear(f"{name}.gate_up", [f"{name}.gate_proj", f"{name}.up_proj"], x)
        gate, up = self.b.op("Split", fused, outputs=2, axis=-1, num_outputs=2)
        activated = self.b.op("Mul", gate, self.b.op("Sigmoid", gate))
        return self._linear(f"{name}.down_proj", self.b.op("Mul", activated, up))

    def _attend(self, name: str, x: str) -> str:
        shape = self.shape
        fused = self._fused_linear(f"{name}.qkv", [f"{name}.{part}_proj" for part in "qkv"], x)
        if self.attention == "group_query" and not shape.qk_norm:
            return self._group_query_attention(fused, "", "")
        sizes = np.array([shape.num_heads, shape.num_kv_heads, shape.num_kv_heads])
        splits = self.b.constant("qkv_sizes", sizes * shape.head_dim)
        query, key, value = self.b.op("Split", fused, splits, outputs=3, axis=-1)
        if shape.qk_norm:
            query = self._norm_heads(f"{name}.q_norm", query, shape.num_heads)
            key = self._norm_heads(f"{name}.k_norm", key, shape.num_kv_heads)
        if self.attention == "group_query":
            return self._group_query_attention(query, key, value)
        return self._standard_attention(query, key, value)

    def _group_query_attention(self, query: str, key: str, value: str) -> str:
        mixed, _, _ = self.b.op(
            "GroupQueryAttention",
            query, key, value, "", "", self.last_index, self.total_length, self.cos, self.sin,
            outputs=3, domain="com.microsoft",
            num_heads=self.shape.num_heads, kv_num_heads=self.shape.num_kv_heads, do_rotary=1,
        )  # fmt: skip
        return str(mixed)

    def _standard_attention(self, query: str, key: str, value: str) -> str:
        heads, kv_heads = self.shape.num_heads, self.shape.num_kv_heads
        query = self._rotate(query, heads)
        key = self._rotate(key, kv_heads)
        out: str = self.b.op(
            "Attention", query, key, value,
            is_causal=1, q_num_heads=heads, kv_num_heads=kv_heads,
        )  # fmt: skip
        return out

    def _rotate(self, x: str, num_heads: int) -> str:
        out: str = self.b.op(
            "RotaryEmbedding", x, self.cos, self.sin, self.position_ids, num_heads=num_heads
        )
        return out

    def _prepare_positions(self) -> None:
        """Compute the positions that attention needs, once for all layers."""
        b = self.b
        shape = b.op("Shape", "token_ids")
        length = b.op("Shape", "token_ids", start=1, end=2)
        if self.attention == "group_query":
            last = b.op("Sub", "lengths", b.constant("one", [1]))
            self.last_index = b.op("Cast", last, to=TensorProto.INT32)
            scalar = b.op("Squeeze", length, b.constant("axis_0", [0]))
            self.total_length = b.op("Cast", scalar, to=TensorProto.INT32)
        else:
            scalar = b.op("Squeeze", length, b.constant("axis_0", [0]))
            positions = b.op(
                "Range", b.constant("zero_scalar", 0), scalar, b.constant("one_scalar", 1)
            )
            self.position_ids = b.op("Expand", positions, shape)

    def _norm(self, name: str, x: str) -> str:
        weight = self.b.weight(f"{name}.weight", self.weights[f"{name}.weight"])
        out: str = self.b.op(
            "RMSNormalization", x, weight, axis=-1, epsilon=self.shape.rms_norm_eps
        )
        return out

    def _norm_heads(self, name: str, x: str, num_heads: int) -> str:
        """Qwen3's norm of each head; [batch, length, heads * head_dim] in and out."""
        per_head = self.b.constant(f"heads_{num_heads}", [0, 0, num_heads, self.shape.head_dim])
        joined = self.b.constant(f"joined_{num_heads}", [0, 0, num_heads * self.shape.head_dim])
        normed = self._norm(name, self.b.op("Reshape", x, per_head))
        out: str = self.b.op("Reshape", normed, joined)
        return out

    def _head(self, head: Head, rows: str) -> str:
        if head.kind == "linear":
            return self._linear("score", rows)
        return self._linear("score.2", self.b.op("Relu", self._linear("score.0", rows)))

    def _linear(self, name: str, x: str) -> str:
        return self._fused_linear(name, [name], x)

    def _matmul(self, name: str, x: str, matrix: NDArray[np.float32]) -> str:
        """``x`` · ``matrix`` [in, out], in 8 bits if the quantization applies to it."""
        quantization, weight_name = self.quantization, f"{name}.weight"
        if quantization is None or not quantization.applies_to(name):
            weight = self.b.weight(weight_name, matrix)
        else:
            quantized = quantize_weight(matrix, quantization.kind)
            weight = self.b.quantized_weight(weight_name, quantized)
            if quantization.kind == "fp8":
                x = self.b.rounded_to_fp8(name, x, quantization.largest_inputs[name])
        out: str = self.b.op("MatMul", x, weight)
        return out

    def _fused_linear(self, name: str, parts: list[str], x: str) -> str:
        """Several projections of the same input as one linear."""
        matrix = np.concatenate([self.weights[f"{part}.weight"] for part in parts]).T
        if self._watch:
            self.watched[name] = self.b.op("ReduceMax", self.b.op("Abs", x), keepdims=0)
        out: str = self._matmul(name, x, matrix)
        if f"{parts[0]}.bias" in self.weights:
            bias = np.concatenate([self.weights[f"{part}.bias"] for part in parts])
            out = self.b.op("Add", out, self.b.weight(f"{name}.bias", bias))
        return out
