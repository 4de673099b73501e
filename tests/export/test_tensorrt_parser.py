"""What TensorRT's parser silently ignores or refuses, and that our graphs contain none of it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from rfprm_export.checkpoint import load_prm
from rfprm_export.graph import write_graph
from rfprm_export.quantization import Quantization
from rfprm_export.tensorrt.builder import EngineBuilder
from tiny_models import save_published_prm


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    return EngineBuilder("tensorrt_rtx")


# op → the attributes it may have
ALLOWED = {
    "Add": set(),
    "Attention": {"is_causal", "q_num_heads", "kv_num_heads"},
    "Cast": {"to"},
    "Concat": {"axis"},
    "DequantizeLinear": {"axis", "output_dtype"},
    "Expand": set(),
    "Gather": set(),
    "Identity": set(),
    "MatMul": set(),
    "Mul": set(),
    "QuantizeLinear": set(),
    "RMSNormalization": {"axis", "epsilon"},
    "Range": set(),
    "Relu": set(),
    "Reshape": set(),
    "RotaryEmbedding": {"num_heads"},
    "Shape": {"start", "end"},
    "Sigmoid": set(),
    "Split": {"axis", "num_outputs"},
    "Squeeze": set(),
}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_graphs_hold_nothing_that_tensorrt_ignores(kind: str, tmp_path: Path) -> None:
    save_published_prm(tmp_path, kind)
    prm, path = load_prm(tmp_path), tmp_path / "model.onnx"
    write_graph(
        path,
        prm.manifest,
        prm.weights,
        attention="standard",
        float_type="fp16",
        quantization=Quantization("fp8", "fp16", defaultdict(lambda: 3.0)),
    )
    model = onnx.load(path, load_external_data=False)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 24)]
    for node in model.graph.node:
        assert {attribute.name for attribute in node.attribute} <= ALLOWED[node.op_type], node
        if node.op_type == "Attention":
            # No mask, past or lengths: the parser would read lengths but not use them.
            assert len(node.input) == 3


def _attention_model(inputs: int = 3, **attributes: Any) -> bytes:
    """A model of one Attention op with the first ``inputs`` of its seven inputs."""
    kinds = {
        "q": (TensorProto.FLOAT16, [1, 16, 128]),
        "k": (TensorProto.FLOAT16, [1, 16, 128]),
        "v": (TensorProto.FLOAT16, [1, 16, 128]),
        "mask": (TensorProto.BOOL, [16, 16]),
        "past_key": (TensorProto.FLOAT16, [1, 2, 8, 64]),
        "past_value": (TensorProto.FLOAT16, [1, 2, 8, 64]),
        "lengths": (TensorProto.INT64, [1]),
    }
    names = list(kinds)[:inputs]
    if inputs == 7:
        names[3:6] = ["", "", ""]
    outputs = ["y"] if inputs != 6 else ["y", "present_key", "present_value"]
    node = helper.make_node(
        "Attention", names, outputs, q_num_heads=2, kv_num_heads=2, **attributes
    )
    graph = helper.make_graph(
        [node],
        "attention",
        [helper.make_tensor_value_info(n, *kinds[n]) for n in names if n],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT16, None) for n in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    return bytes(model.SerializeToString())


def _parse(builder: EngineBuilder, model: bytes) -> tuple[bool, Any]:
    network = builder._builder.create_network(0)
    parser = builder.trt.OnnxParser(network, builder.logger)
    return parser.parse(model), network


def test_the_parser_leaves_lengths_unused(builder: EngineBuilder) -> None:
    """So padding must not matter to our graphs. Once this fails, graphs can use lengths."""
    parsed, network = _parse(builder, _attention_model(7))
    assert parsed
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    used = {
        tensor.name
        for layer in layers
        for tensor in map(layer.get_input, range(layer.num_inputs))
        if tensor is not None
    }
    assert {"q", "k", "v"} <= used
    assert "lengths" not in used


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_attention_model(6), "node.output().size() == 1"),  # with past keys and values
        (_attention_model(3, softcap=30.0), "softcap"),
    ],
)
def test_the_parser_refuses_what_it_cannot_do(
    model: bytes, reason: str, builder: EngineBuilder
) -> None:
    """A graph with these is refused, not built into a wrong TensorRT engine."""
    parsed, _ = _parse(builder, model)
    assert not parsed
    assert reason in builder.logger.last_errors
