"""What the native kernels assume is checked when a model is loaded, whatever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_export.aligned_file import in_memory, write_aligned
from rfprm_export.native_file import write_native
from rfprm_export.panels import linear_names
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.tensors import read_tensors
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.backends.native.library import available_variants
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.engine.rows import TokenBatch
from rfprm_runtime.errors import ArtifactError, BackendError
from tiny_models import byte_tokenizer, random_weights, scorer_on, tiny_manifest

pytestmark = pytest.mark.skipif(
    not available_variants(), reason="the package was built without a C compiler"
)
ROOT = Path(__file__).resolve().parents[2]
NOT_POSSIBLE = 77
_BATCH = TokenBatch(np.arange(40)[None], np.array([40]), np.array([3, 39]))


def _with_shape(manifest: Manifest, **changes: Any) -> Manifest:
    own = {"max_positions": changes.pop("max_positions", manifest.max_positions)}
    shape = manifest.backbone.model_copy(update=changes)
    return manifest.model_copy(update={**own, "backbone": shape})


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    shape = {"hidden_size": 48, "head_dim": 16, "intermediate_size": 80, "qkv_bias": True}
    return _with_shape(tiny_manifest(byte_tokenizer()), **shape)


@pytest.fixture(scope="module")
def path(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limits") / "model.native.safetensors"
    shape, weights = manifest.backbone, random_weights(manifest)
    in_8_bits = linear_names(shape)[1::2]
    return write_native(path, shape, manifest.head, weights, in_8_bits=in_8_bits)


def _changed(path: Path, target: Path, name: str, value: float, at: int = 0) -> Path:
    """A copy of the model with one other number."""
    tensors, metadata = read_tensors(ArtifactFiles(path.parent).read(path.name), path)
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[at] = value
    write_aligned(target / "changed", in_memory(tensors), metadata)
    return target / "changed"


@pytest.mark.parametrize(
    "changes",
    [
        *({"head_dim": size} for size in (2, 8, 24, 34)),
        *({"hidden_size": size} for size in (8, 20, 24)),
        {"head_dim": 0},
        {"hidden_size": 2**18},
        {"intermediate_size": 2**18},
        {"num_heads": 2**14},
        {"num_kv_heads": 0},
        {"num_heads": 3, "num_kv_heads": 2},
        {"max_positions": 0},
        {"max_positions": 2**40},
        {"max_positions": 2**63 - 1},
    ],
    ids=str,
)
def test_shapes_the_kernels_do_not_support_are_refused(
    path: Path, manifest: Manifest, changes: dict[str, int]
) -> None:
    with pytest.raises(ArtifactError, match="the native kernels support"):
        NativeBackend(path, _with_shape(manifest, **changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "layers.0.qkv.scales",
        "layers.1.qkv.bias",
        "layers.0.attention_norm",
        "layers.1.mlp_norm",
        "embedding_scale",
        "final_norm",
        "head.0.weight",
        "head.0.bias",
    ],
)
def test_numbers_that_are_not_finite_are_refused(
    path: Path, manifest: Manifest, tmp_path: Path, name: str, value: float
) -> None:
    with pytest.raises(ArtifactError, match=f"not finite as '{name}'"):
        NativeBackend(_changed(path, tmp_path, name, value, at=1), manifest)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 1e12])
def test_limits_that_let_sums_overflow_are_refused(
    path: Path, manifest: Manifest, tmp_path: Path, value: float
) -> None:
    with pytest.raises(ArtifactError, match=r"layers\.0\.qkv .*activation limit"):
        NativeBackend(_changed(path, tmp_path, "activation_limits", value), manifest)


def test_weights_that_the_limit_does_not_know_are_refused(
    path: Path, manifest: Manifest, tmp_path: Path
) -> None:
    changed = _changed(path, tmp_path, "layers.1.gate_up.panels", 32767, at=5)
    with pytest.raises(ArtifactError, match=r"layers\.1\.gate_up .*activation limit"):
        NativeBackend(changed, manifest)


def test_sums_that_are_not_those_of_the_weights_are_refused(
    path: Path, manifest: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"layers\.0\.output .*1 wrong sums"):
        NativeBackend(_changed(path, tmp_path, "layers.0.output.sums", 7, at=3), manifest)


def _overflowing(manifest: Manifest, name: str, value: float) -> dict[str, np.ndarray]:
    weights = random_weights(manifest)
    weights[name] = np.full_like(weights[name], value)
    return weights


_OVERFLOWS = {
    "squares of a row": ("model.embed_tokens.weight", 1e25),
    "keys": ("model.layers.0.self_attn.k_proj.bias", 3e38),
    "queries": ("model.layers.1.self_attn.q_proj.bias", 1e30),
    "values": ("model.layers.0.self_attn.v_proj.bias", 3e38),
    "norms": ("model.layers.0.input_layernorm.weight", 1e38),
    "products": ("model.layers.1.mlp.up_proj.weight", 1e37),
    "the head": ("score.weight", 3e38),
}


@pytest.mark.parametrize("where", _OVERFLOWS)
@pytest.mark.parametrize("backend", [*available_variants(), "torch", "packed"])
def test_an_overflow_never_becomes_a_number(
    manifest: Manifest, tmp_path: Path, backend: str, where: str
) -> None:
    """In any part of the network: a row's squares, whose root would make zeros, and attention,
    whose largest logit would hide it, included."""
    weights = _overflowing(manifest, *_OVERFLOWS[where])
    if where == "queries" and backend in ("torch", "packed"):
        pytest.skip("their products do not overflow, because they have no units")
    with np.errstate(all="ignore"):
        opened = _open(backend, manifest, weights, tmp_path)
        assert not np.isfinite(opened.run(_BATCH)).any()
    scorer = scorer_on(opened, manifest)
    with pytest.raises(BackendError, match="not finite"):
        scorer.score("1 + 1?", ["It is 2."])
    scorer.close()


@pytest.mark.parametrize("kernels", available_variants())
def test_the_largest_logit_wins_however_small_it_is(
    manifest: Manifest, tmp_path: Path, kernels: str
) -> None:
    """All logits are below -1e30, which must not look like a key that is masked."""
    weights = random_weights(manifest)
    weights["model.layers.0.self_attn.q_proj.bias"] += np.float32(1e17)
    weights["model.layers.0.self_attn.k_proj.bias"] -= np.float32(1e17)
    expected = _open("torch", manifest, weights, tmp_path).run(_BATCH)
    found = _open(kernels, manifest, weights, tmp_path).run(_BATCH)
    np.testing.assert_allclose(found, expected, atol=0.05)


def _open(name: str, manifest: Manifest, weights: dict[str, np.ndarray], folder: Path) -> Any:
    if name not in ("torch", "packed"):
        path = write_native(folder / "model", manifest.backbone, manifest.head, weights)
        return NativeBackend(path, manifest, kernels=name, num_threads=1)
    network = build_network(manifest.backbone, manifest.head, weights)
    if name == "torch":
        return TorchBackend(network, device="cpu")
    from rfprm_runtime.backends.packed_torch import PackedTorchBackend

    return PackedTorchBackend(network, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "BF16"}, "has dtype 'BF16'"),
        ({"dtype": 7}, "has dtype 7"),
        ({"shape": [-1]}, "no shape of sizes"),
        ({"shape": [2**62, 2**62]}, "lies from"),
        ({"shape": [True]}, "no shape of sizes"),
        ({"data_offsets": [-64, 0]}, "not two offsets"),
        ({"data_offsets": [0, 2**63]}, "beyond 64 bits"),
        ({"data_offsets": [0, 2**63 - 1]}, "lies from"),
        ({"data_offsets": [8]}, "not two offsets"),
        (None, "has dtype None"),
    ],
)
def test_a_header_is_not_believed(
    path: Path, manifest: Manifest, tmp_path: Path, change: Any, message: str
) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["final_norm"] = None if change is None else {**header["final_norm"], **change}
    text = json.dumps(header).encode()
    damaged = tmp_path / "damaged"
    damaged.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(ArtifactError, match=message):
        NativeBackend(damaged, manifest)


def test_the_kernels_touch_only_what_is_theirs() -> None:
    """A few random models under the sanitizers; scripts/sanitize_kernels.py runs for longer."""
    command = [sys.executable, str(ROOT / "scripts/sanitize_kernels.py"), "--quick"]
    done = subprocess.run([*command, "--seconds", "3"], capture_output=True, text=True)
    if done.returncode == NOT_POSSIBLE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    assert "bit comparisons" in done.stdout
