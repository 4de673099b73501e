"""TensorRT engines built by the real tensorrt_rtx, without a GPU, and their contents."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from rfprm_export import ExportError
from rfprm_export.checkpoint import load_prm
from rfprm_export.float_types import FloatType
from rfprm_export.graph import write_graph
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.quantization import Quantization
from rfprm_export.shipped import shipped_checkpoint
from rfprm_export.tensorrt.builder import BuildOptions, EngineBuilder, prepared_graph
from rfprm_export.tensorrt.plan_contents import PlanContents, read_plan
from rfprm_export.tensorrt.profiles import make_profile
from rfprm_runtime.errors import MissingExtraError
from tiny_models import save_published_prm

CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
BACKBONES = {
    "llama": {"kind": "llama", "num_heads": 6, "num_kv_heads": 2, "head_dim": 32},
    "qwen2": {"kind": "qwen2", "num_heads": 4, "num_kv_heads": 4, "head_dim": 64},
    "qwen3": {"kind": "qwen3", "num_heads": 4, "num_kv_heads": 1, "head_dim": 64},
}
TYPE_NAMES = {"fp16": "half", "bf16": "bf16", "fp32": "float"}
OPTIONS = BuildOptions(profiles=(make_profile(4, 128),), compute_capabilities=CAPABILITIES)


@pytest.fixture(scope="module")
def builder() -> EngineBuilder:
    return EngineBuilder("tensorrt_rtx")


def _write(folder: Path, prm: LoadedPRM, float_type: FloatType, **options: Any) -> Path:
    write_graph(
        folder / "model.onnx",
        prm.manifest,
        prm.weights,
        attention="standard",
        float_type=float_type,
        **options,
    )
    return folder / "model.onnx"


def _tiny(folder: Path, name: str, float_type: FloatType, **options: Any) -> Path:
    save_published_prm(folder, **BACKBONES[name])
    return _write(folder, load_prm(folder), float_type, **options)


def _with_layers(prm: LoadedPRM, count: int) -> LoadedPRM:
    """The PRM with its lowest ``count`` layers alone."""
    above = {f"layers.{index}." for index in range(count, prm.manifest.backbone.num_layers)}
    backbone = prm.manifest.backbone.model_copy(update={"num_layers": count})
    return replace(
        prm,
        manifest=prm.manifest.model_copy(update={"backbone": backbone}),
        weights={
            name: array
            for name, array in prm.weights.items()
            if not any(layer in name for layer in above)
        },
    )


def _layer_types(network: Any, kind: str) -> list[tuple[str, str]]:
    """Input and output type of every layer of ``kind``."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [
        (layer.get_input(0).dtype.name, layer.get_output(0).dtype.name)
        for layer in layers
        if layer.type.name == kind
    ]


def _attention_nodes(graph: Path) -> list[str]:
    model = onnx.load(graph, load_external_data=False)
    return sorted(node.name for node in model.graph.node if node.op_type == "Attention")


def _check_contents(contents: PlanContents, graph: Path, group: int, float_type: str) -> None:
    assert contents.fused_attention() == _attention_nodes(graph)
    # A query sees the keys from the first to its own, without a length or mask.
    bounds = {("left", "((int32_t) 0)"), ("right", "row + ((int32_t) 0)")}
    assert contents.visible == bounds
    assert contents.head_group_sizes == {group}
    assert set(contents.tensor_types.values()) & set(TYPE_NAMES.values()) == {
        TYPE_NAMES[float_type],
        "float",  # the head, and means within a norm
    }


@pytest.mark.parametrize("float_type", ["fp16", "bf16"])
@pytest.mark.parametrize("name", BACKBONES)
def test_tiny_models_become_engines_with_fused_attention(
    name: str, float_type: FloatType, builder: EngineBuilder, tmp_path: Path
) -> None:
    graph = _tiny(tmp_path, name, float_type)
    network = builder.parse(graph)
    shapes = {t.name: tuple(t.shape) for t in map(network.get_input, range(network.num_inputs))}
    assert shapes == {"token_ids": (-1, -1), "marker_positions": (-1,)}
    assert {network.get_input(i).dtype.name for i in range(2)} == {"INT64"}
    (output,) = (network.get_output(i) for i in range(network.num_outputs))
    assert (output.name, tuple(output.shape), output.dtype.name) == ("logits", (-1, 2), "FLOAT")
    narrow = {"fp16": "HALF", "bf16": "BF16"}[float_type]
    linears = _layer_types(network, "MATRIX_MULTIPLY")
    # Four linears per layer, and the two of the head in float32.
    assert linears == [(narrow, narrow)] * 12 + [("FLOAT", "FLOAT")] * 2
    built = builder.build(graph, OPTIONS)
    assert built.compute_capabilities == CAPABILITIES
    shape = BACKBONES[name]
    group = int(shape["num_heads"]) // int(shape["num_kv_heads"])
    _check_contents(read_plan(built.plan), graph, group, float_type)


def test_float32_attention_is_decomposed(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = _tiny(tmp_path, "qwen2", "fp32")
    contents = read_plan(builder.build(graph, OPTIONS).plan)
    assert contents.fused_attention() == []
    assert set(contents.tensor_types.values()) & set(TYPE_NAMES.values()) == {"float"}
    # Only for the parser; the file keeps its standard attributes.
    assert b"TRT_decomposable" in prepared_graph(graph)
    assert b"TRT_decomposable" not in graph.read_bytes()


def test_the_shipped_prm_becomes_an_engine(builder: EngineBuilder, tmp_path: Path) -> None:
    prm = _with_layers(load_prm(shipped_checkpoint()), 5)  # all 20 take a minute
    graph = _write(tmp_path, prm, "fp16")
    profiles = (make_profile(1, 8192), make_profile(8, 512))
    seen: list[tuple[str, int, int]] = []

    def on_progress(phase: str, done: int, total: int) -> bool:
        seen.append((phase, done, total))
        return True

    built = builder.build(graph, replace(OPTIONS, profiles=profiles), on_progress)
    contents = read_plan(built.plan)
    assert contents.fused_attention(num_profiles=2) == _attention_nodes(graph)
    assert len(_attention_nodes(graph)) == prm.manifest.backbone.num_layers
    assert contents.head_group_sizes == {3}
    # Embedding and linears in 16 bits, once for both profiles, and some code.
    weights = sum(array.size for array in prm.weights.values()) * 2
    assert weights < len(built.plan) < 1.6 * weights
    assert contents.region_bytes
    # Eight rows of 512 tokens, or one of 8,192: activations, without a copy of the weights.
    assert contents.region_bytes < 2 * weights
    assert seen
    assert all(done <= total for _, done, total in seen)


def test_linears_in_fp8_become_fp8_kernels(builder: EngineBuilder, tmp_path: Path) -> None:
    largest = defaultdict(lambda: 3.0)  # of the inputs of every linear
    graph = _tiny(tmp_path, "qwen2", "bf16", quantization=Quantization("fp8", "bf16", largest))
    options = replace(OPTIONS, compute_capabilities=("8.9", "12.0"))
    contents = read_plan(builder.build(graph, options).plan)
    assert "fp8_e4m3" in contents.tensor_types.values()
    assert contents.fused_attention() == _attention_nodes(graph)
    with pytest.raises(ExportError, match=r"fp8"):  # Ampere has no fp8
        builder.build(graph, replace(options, compute_capabilities=("8.0",)))
    by_default = replace(options, compute_capabilities=(), precision="fp8")
    assert builder.chosen_capabilities(by_default) == ("8.9", "12.0", "12.1")


def test_8_bit_weights_stay_in_8_bits_in_the_plan(builder: EngineBuilder, tmp_path: Path) -> None:
    sizes = {}
    for label, quantization in (("bf16", None), ("w8a16", Quantization("w8a16"))):
        folder = tmp_path / label
        save_published_prm(folder, "qwen2", num_heads=16, num_kv_heads=16, head_dim=64)
        graph = _write(folder, load_prm(folder), "bf16", quantization=quantization)
        sizes[label] = len(builder.build(graph, OPTIONS).plan)
    weights = 3 * 4 * 1024 * 1024
    assert sizes["bf16"] - sizes["w8a16"] > 0.9 * weights  # one byte less each


# Errors


def test_unknown_compute_capabilities_are_refused(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = _tiny(tmp_path, "qwen2", "fp16")
    with pytest.raises(ExportError, match=r"does not build for compute capability 9\.0, only for"):
        builder.build(graph, replace(OPTIONS, compute_capabilities=("8.9", "9.0")))


def test_a_graph_of_other_ops_cannot_be_parsed(builder: EngineBuilder, tmp_path: Path) -> None:
    save_published_prm(tmp_path, "qwen2")
    prm = load_prm(tmp_path)
    write_graph(
        tmp_path / "model.onnx",
        prm.manifest,
        prm.weights,
        attention="group_query",
    )
    with pytest.raises(ExportError, match=r"cannot parse .*--attention standard"):
        builder.build(tmp_path / "model.onnx", OPTIONS)


def test_replaceable_weights_need_a_gpu(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = _tiny(tmp_path, "qwen2", "fp16")
    options = replace(OPTIONS, weights="stripped", compute_capabilities=("8.9",))
    with pytest.raises(ExportError, match="one --compute-capability, on a machine with that GPU"):
        builder.build(graph, options)


def test_a_build_can_be_stopped(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = _tiny(tmp_path, "qwen2", "fp16")
    with pytest.raises(ExportError, match="built no engine"):
        builder.build(graph, OPTIONS, lambda phase, done, total: False)


def test_a_timing_cache_is_refused_without_timing(builder: EngineBuilder, tmp_path: Path) -> None:
    graph = _tiny(tmp_path, "qwen2", "fp16")
    with pytest.raises(ExportError, match="--timing-cache: only for --flavour tensorrt"):
        builder.build(graph, replace(OPTIONS, timing_cache=tmp_path / "timing.cache"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("version_compatible", True),
        ("hardware_compatibility", "ampere_plus"),
        ("optimization_level", 5),
    ],
)
def test_options_without_effect_are_refused(
    option: str, value: Any, builder: EngineBuilder
) -> None:
    with pytest.raises(ExportError, match=f"--{option.replace('_', '-')}: only for --flavour"):
        builder.check_options(replace(OPTIONS, **{option: value}))


def test_float32_is_not_shortened_to_10_bits(builder: EngineBuilder, tmp_path: Path) -> None:
    """The head is float32 in every precision, and TensorRT would use TF32 for it by default."""
    plan = builder.build(_tiny(tmp_path, "qwen2", "fp16"), OPTIONS).plan
    assert b"tf32=1" not in plan


def test_a_timing_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    """Tests our part alone; ``tensorrt``, which has timing caches, does not install everywhere."""

    class Config:
        def create_timing_cache(self, content: bytes) -> bytes:
            return content

        def set_timing_cache(self, cache: bytes, *, ignore_mismatch: bool) -> bool:
            return cache != b"stale"

    builder = EngineBuilder("tensorrt_rtx")
    builder.flavour = "tensorrt"
    path = tmp_path / "timing.cache"
    assert builder._load_timing_cache(Config(), path) == b""  # a new cache
    path.write_bytes(b"stale")
    with pytest.raises(ExportError, match=r"timing cache .*timing\.cache .*remove it"):
        builder._load_timing_cache(Config(), path)


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"building a tensorrt engine .*\[tensorrt\]"):
        EngineBuilder("tensorrt")


def test_weights_beyond_fp16_are_refused(tmp_path: Path) -> None:
    save_published_prm(tmp_path, "qwen2")
    prm = load_prm(tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    prm = replace(prm, weights={**prm.weights, name: prm.weights[name] * np.float32(1e7)})
    with pytest.raises(
        ExportError, match=r"layers\.1\.mlp\.down_proj.*but fp16 ends at 6\.55e\+04"
    ):
        _write(tmp_path, prm, "fp16")
