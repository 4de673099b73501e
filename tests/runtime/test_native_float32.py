"""The float32 kernels: close to the reference network, with bits that depend on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfprm_export.aligned_file import in_memory, write_aligned
from rfprm_export.graph import write_graph
from rfprm_runtime.artifact.contents import ArtifactFiles, ModelFile
from rfprm_runtime.artifact.manifest import ONNX_NAME, TORCH_NAME, Backbone, FileRecord, Manifest
from rfprm_runtime.artifact.onnx_weights import GraphWeights
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.backends.native.layered import LayeredNative
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.backends.table import choose_backend
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.engine.rows import Extension, Past, TokenBatch, TokenRow, pad_batch
from rfprm_runtime.errors import ArtifactError, BackendError
from tiny_models import byte_tokenizer, random_weights, tiny_manifest

pytestmark = pytest.mark.skipif(
    not available_variants("float32"), reason="the package was built without a C compiler"
)
SHAPES: dict[str, dict[str, Any]] = {
    "groups of three": {"num_heads": 3, "num_kv_heads": 1, "intermediate_size": 81},
    "a head for each key": {"num_heads": 2, "num_kv_heads": 2, "hidden_size": 80},
    "heads of 80": {"head_dim": 80, "num_heads": 4, "intermediate_size": 33},
    "heads of 128": {"head_dim": 128, "hidden_size": 64, "intermediate_size": 200},
    "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "intermediate_size": 70},
    "norms of heads": {"qk_norm": True, "head_dim": 32, "intermediate_size": 17},
    "several blocks of depth": {"num_layers": 1, "intermediate_size": 1600},
}


def _manifest(head: str = "linear", max_positions: int = 1024, **shape: Any) -> Manifest:
    plain = {"hidden_size": 48, "head_dim": 16, "intermediate_size": 80}
    family = "qwen2.5-math-prm" if head == "mlp_relu" else "rfprm"
    manifest = tiny_manifest(byte_tokenizer(), family=family, max_positions=max_positions)
    backbone = Backbone.model_validate(manifest.backbone.model_dump() | plain | shape)
    assert manifest.head.kind == head
    return manifest.model_copy(update={"backbone": backbone})


def _batch(ids: np.ndarray, markers: np.ndarray | None = None) -> TokenBatch:
    markers = np.arange(len(ids)) if markers is None else markers
    return TokenBatch(ids[None], np.array([len(ids)]), markers)


def _graph(folder: Path, manifest: Manifest, weights: dict[str, np.ndarray]) -> ModelFile:
    write_graph(folder / ONNX_NAME, manifest, weights, attention="standard")
    return ArtifactFiles(folder).file(ONNX_NAME)


def _torch_file(folder: Path, weights: dict[str, np.ndarray]) -> ModelFile:
    write_aligned(folder / TORCH_NAME, in_memory(weights), {})
    return ArtifactFiles(folder).file(TORCH_NAME)


@pytest.mark.parametrize("head", ["linear", "mlp_relu"])
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_and_reference_agree(name: str, head: str, tmp_path: Path) -> None:
    manifest = _manifest(head, **SHAPES[name])
    weights = random_weights(manifest)
    network = TorchBackend(build_network(manifest.backbone, manifest.head, weights), device="cpu")
    file = _graph(tmp_path, manifest, weights)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, manifest.backbone.vocab_size, size) for size in (1, 5, 64, 65, 200)]
    found = {}
    for variant in available_variants("float32"):
        native = NativeBackend(file, manifest, num_threads=2, kernels=variant)
        assert f"{variant}-float32" in native.description
        for ids in rows:
            theirs, ours = network.run(_batch(ids)), native.run(_batch(ids))
            scale = max(1.0, float(np.abs(theirs).max()))
            assert np.abs(ours - theirs).max() <= 1e-5 * scale, f"{variant}, {len(ids)} tokens"
            assert native.run(_batch(ids), threads=2).tobytes() == ours.tobytes()
        found[variant] = ours
        native.close()
    other = NativeBackend(_torch_file(tmp_path, weights), manifest, num_threads=1)
    best = available_variants("float32")[0]
    assert other.run(_batch(rows[-1])).tobytes() == found[best].tobytes(), "the same weights"
    other.close()


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return _manifest(num_heads=3, num_kv_heads=1, intermediate_size=81, qkv_bias=True)


@pytest.fixture(scope="module")
def file(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    return _graph(tmp_path_factory.mktemp("float32"), manifest, random_weights(manifest))


@pytest.fixture(scope="module")
def backends(file: ModelFile, manifest: Manifest) -> Iterator[dict[str, NativeBackend]]:
    variants = available_variants("float32")
    opened = {name: NativeBackend(file, manifest, kernels=name, num_threads=4) for name in variants}
    yield opened
    for backend in opened.values():
        backend.close()


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 150), max_size=4),
    threads=st.integers(1, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_bits_depend_on_nothing_but_the_row(
    backends: dict[str, NativeBackend],
    lengths: list[int],
    cuts: list[int],
    threads: int,
    share: float,
    seed: int,
) -> None:
    """Not on threads, other rows of the pass, what follows, where it was cut or what is read."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 200, length) for length in lengths]
    markers = np.flatnonzero(rng.random(len(rows[0])) <= share)
    for backend in backends.values():
        alone = [backend.run(_batch(ids)) for ids in rows]
        assert backend.run(_batch(rows[0]), threads).tobytes() == alone[0].tobytes()
        assert backend.run(_batch(rows[0], markers)).tobytes() == alone[0][markers].tobytes()
        together = backend.extend([Extension(ids, np.arange(len(ids))) for ids in rows])
        for extended, expected in zip(together, alone, strict=True):
            assert extended.logits.tobytes() == expected.tobytes()
        assert _in_pieces(backend, rows[0], cuts, threads).tobytes() == alone[0].tobytes()


def _in_pieces(
    backend: NativeBackend, ids: np.ndarray, cuts: list[int], threads: int
) -> np.ndarray:
    past: Past | None = None
    parts, done = [], 0
    for size in [*cuts, len(ids)]:
        piece = ids[done : done + size]
        if not len(piece):
            break
        # A fork writes something else after the same past first.
        items = [
            Extension(new, np.arange(len(new)), past, keep=True) for new in (piece[::-1], piece)
        ]
        backend.extend([items[0]])
        (extended,) = backend.extend([items[1]], threads)
        past, done = extended.past, done + len(piece)
        parts.append(extended.logits)
    return np.concatenate(parts)


def test_a_layer_at_a_time_gives_the_same_bits(file: ModelFile, manifest: Manifest) -> None:
    rows = [np.arange(length) % 200 for length in (3, 70, 300)]
    layered = LayeredNative(file, manifest)
    batch = pad_batch([TokenRow(ids, np.arange(len(ids))) for ids in rows])
    whole = NativeBackend(file, manifest, num_threads=1)
    expected = np.concatenate([whole.run(_batch(ids)) for ids in rows])
    assert layered.run(batch).tobytes() == expected.tobytes()
    mapped = NativeBackend(file, manifest, map_weights=True)
    assert mapped.run(_batch(rows[1])).tobytes() == expected[3:73].tobytes()
    for backend in (whole, mapped):
        backend.close()


# Numbers that are not finite


_OVERFLOWS = {
    "squares of a row": ("model.embed_tokens.weight", 1e25),
    "queries": ("model.layers.1.self_attn.q_proj.bias", 3e38),
    "keys": ("model.layers.0.self_attn.k_proj.bias", 3e38),
    "values": ("model.layers.1.self_attn.v_proj.bias", 3e38),
    "norms": ("model.layers.0.input_layernorm.weight", 1e38),
    "gates": ("model.layers.1.mlp.gate_proj.weight", 3e38),
    "products": ("model.layers.1.mlp.up_proj.weight", 1e38),
}


@pytest.mark.parametrize("where", _OVERFLOWS)
def test_an_overflow_never_becomes_a_number(manifest: Manifest, tmp_path: Path, where: str) -> None:
    """Nothing turns at position 0, and one key has all weight, so numbers there may be right."""
    weights = random_weights(manifest)
    name, value = _OVERFLOWS[where]
    weights[name] = np.full_like(weights[name], value)
    file = _graph(tmp_path, manifest, weights)
    for variant in available_variants("float32"):
        backend = NativeBackend(file, manifest, kernels=variant, num_threads=1)
        logits = backend.run(_batch(np.arange(70), np.array([1, 64, 69])))
        assert not np.isfinite(logits).any(), variant
        backend.close()


def test_a_token_that_overflows_leaves_those_before_it_alone(
    manifest: Manifest, tmp_path: Path
) -> None:
    """Its keys and values are in the pages and the tiles of rows that do not see them."""
    weights = random_weights(manifest)
    file = _graph(tmp_path, manifest, weights)
    ids = np.arange(100)
    expected = NativeBackend(file, manifest, num_threads=1).run(_batch(ids[:77]))
    weights["model.embed_tokens.weight"][77] = 1e30
    damaged = NativeBackend(_graph(tmp_path, manifest, weights), manifest, num_threads=1)
    found = damaged.run(_batch(ids))
    assert found[:77].tobytes() == expected.tobytes()
    assert np.isnan(found[77:]).all()
    assert damaged.run(_batch(ids[:77])).tobytes() == expected.tobytes(), "in the same memory"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.0.self_attn.k_proj.weight", r"layers\.0\.qkv\.weight"),
        ("model.layers.1.mlp.up_proj.weight", r"layers\.1\.gate_up\.weight"),
        ("model.layers.1.self_attn.v_proj.bias", r"layers\.1\.qkv\.bias"),
        ("model.layers.0.post_attention_layernorm.weight", r"layers\.0\.mlp_norm"),
        ("score.weight", r"head\.0\.weight"),
    ],
)
def test_weights_that_are_not_finite_are_refused(
    manifest: Manifest, tmp_path: Path, name: str, found: str, value: float
) -> None:
    weights = random_weights(manifest)
    weights[name].reshape(-1)[-1] = value
    with pytest.raises(ArtifactError, match=f"not finite as '{found}'"):
        NativeBackend(_graph(tmp_path, manifest, weights), manifest)


# What a graph or a file may hold


def _renamed(tensor: onnx.TensorProto) -> None:
    tensor.name = "another"


def _narrow(tensor: onnx.TensorProto) -> None:
    tensor.data_type = onnx.TensorProto.FLOAT16


def _turned(tensor: onnx.TensorProto) -> None:
    tensor.dims[:] = reversed(tensor.dims)


def _with(key: str, value: str) -> Any:
    def change(tensor: onnx.TensorProto) -> None:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_renamed, "a weight 'another', which the manifest's network does not have"),
        (_narrow, "of type 10, expected float32"),
        (_turned, r"float32 \(48, 81\) as 'layers.1.down.weight', expected float32 \(81, 48\)"),
        (_with("offset", str(2**40)), "bytes from byte 1099511627776 of"),
        (_with("offset", "-64"), "with offset '-64', expected a number"),
        (_with("offset", "9" * 40), "expected a number"),
        (_with("length", "4"), "with 4 bytes"),
        (_with("length", ""), "with length '', expected a number"),
        (_with("location", "other.data"), "is missing|reads weights from 'other.data'"),
        (_with("location", "../model.onnx.data"), "names a file with weights"),
    ],
)
def test_a_graph_is_not_believed(
    manifest: Manifest, tmp_path: Path, change: Any, message: str
) -> None:
    file = _graph(tmp_path, manifest, random_weights(manifest))
    model = onnx.load(str(file.path), load_external_data=False)
    name = "model.layers.1.mlp.down_proj.weight"
    change(next(tensor for tensor in model.graph.initializer if tensor.name == name))
    file.path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=message):
        NativeBackend(file, manifest)


def test_two_weights_of_one_name_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    file = _graph(tmp_path, manifest, random_weights(manifest))
    model = onnx.load(str(file.path), load_external_data=False)
    model.graph.initializer.append(model.graph.initializer[0])
    file.path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="two weights"):
        GraphWeights(file)


@pytest.mark.parametrize("layers", [1, 3, 10**9])
def test_a_manifest_with_other_layers_is_refused(
    file: ModelFile, manifest: Manifest, layers: int
) -> None:
    shape = manifest.backbone.model_copy(update={"num_layers": layers})
    with pytest.raises(ArtifactError, match=r"does not have|holds nothing|which are not"):
        NativeBackend(file, manifest.model_copy(update={"backbone": shape}))


def test_a_torch_file_of_other_shapes_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    weights = random_weights(manifest)
    for name, other in {
        "model.layers.0.self_attn.k_proj.weight": np.zeros((16, 47), np.float32),
        "model.layers.0.mlp.down_proj.weight": np.zeros((48, 80), np.float32),
        "model.norm.weight": np.zeros(48, np.float64),
    }.items():
        with pytest.raises(ArtifactError, match=r"do not fit|expected float32"):
            NativeBackend(_torch_file(tmp_path, weights | {name: other}), manifest)
    file = _torch_file(tmp_path, weights)
    with pytest.raises(BackendError, match="cannot map"):
        NativeBackend(file, manifest, map_weights=True)


# Which backend runs an fp32 artifact


def _artifact_of(name: str, **changes: Any) -> Manifest:
    files = {name: FileRecord(sha256="0" * 64, num_bytes=1)}
    own = {"files": files, "exporter": {"attention": "group_query"}}
    return _manifest().model_copy(update=own | changes)


def test_native_is_the_default_of_fp32_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _artifact_of(ONNX_NAME)
    assert choose_backend(plain) == "native"
    assert choose_backend(plain, "onnx") == "onnx"
    assert choose_backend(plain, options={"num_threads": 1, "map_weights": True}) == "native"
    assert choose_backend(plain, options={"provider": "cpu"}) == "onnx", "it has the option"
    small = plain.backbone.model_copy(update={"head_dim": 8})
    assert choose_backend(plain.model_copy(update={"backbone": small})) == "onnx"
    assert choose_backend(plain.model_copy(update={"precision": "fp16"})) == "onnx"
    assert choose_backend(plain.model_copy(update={"exporter": {}})) == "onnx", "not our graph"
    with pytest.raises(ArtifactError, match="--precision int16 or fp32"):
        choose_backend(plain.model_copy(update={"precision": "bf16"}), "native")
    from rfprm_runtime.backends.native import library

    monkeypatch.setattr(library, "built_variants", lambda numbers: [])
    library.load_library.cache_clear()
    assert choose_backend(plain) == "onnx"
    library.load_library.cache_clear()


def test_torch_keeps_its_own_format_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from rfprm_runtime.backends import table

    stored = _artifact_of(TORCH_NAME)
    assert choose_backend(stored) == "torch"
    assert choose_backend(stored, "native") == "native"
    monkeypatch.setattr(table, "find_spec", lambda name: None)
    assert choose_backend(stored) == "native"
    assert choose_backend(stored, options={"device": "cuda"}) == "torch"
