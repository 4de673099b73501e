"""The exported graph, the reference network and transformers agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rfprm_export.checkpoint import load_prm
from rfprm_export.choices import AttentionOp
from rfprm_export.float_types import FloatType
from rfprm_export.graph import write_graph
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.engine.rows import TokenBatch
from tiny_models import SCALED, save_published_prm

BACKBONES = {
    "llama": {"kind": "llama", "num_heads": 4, "num_kv_heads": 4},
    "llama-gqa-3": {"kind": "llama", "num_heads": 3, "num_kv_heads": 1, "rope_theta": 500_000.0},
    "llama-biases": {"kind": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2": {"kind": "qwen2", "num_heads": 4, "num_kv_heads": 1},
    "qwen3": {"kind": "qwen3", "num_heads": 4, "num_kv_heads": 2},
    "llama-3.1": {"kind": "llama", "rope_scaling": SCALED["llama3"]},
    "qwen2-yarn": {"kind": "qwen2", "rope_scaling": SCALED["yarn"]},
}


def _batch(vocab_size: int) -> TokenBatch:
    """Rows of 40 and 23 tokens, right-padded, with markers at both ends of each."""
    rng = np.random.default_rng(0)
    return TokenBatch(
        token_ids=rng.integers(0, vocab_size, (2, 40)),
        lengths=np.array([40, 23]),
        marker_positions=np.array([0, 17, 39, 40, 51, 62]),
    )


def _logits_of_transformers(backbone: Any, prm: LoadedPRM, batch: TokenBatch) -> np.ndarray:
    """Hidden states by transformers, one unpadded row at a time, and the head by hand."""
    with torch.no_grad():
        rows = [
            backbone(torch.from_numpy(ids[:length])[None]).last_hidden_state[0].numpy()
            for ids, length in zip(batch.token_ids, batch.lengths, strict=True)
        ]
    hidden = np.stack(
        [rows[position // 40][position % 40] for position in batch.marker_positions]
    ).astype(np.float64)
    w = prm.weights
    inner = np.maximum(hidden @ w["score.0.weight"].T + w["score.0.bias"], 0)
    return inner @ w["score.2.weight"].T + w["score.2.bias"]


@pytest.mark.parametrize("attention", ["group_query", "standard"])
@pytest.mark.parametrize("name", BACKBONES)
def test_graph_reference_and_transformers_agree(
    name: str, attention: AttentionOp, tmp_path: Path
) -> None:
    backbone = save_published_prm(tmp_path, **BACKBONES[name])
    prm = load_prm(tmp_path)
    manifest = prm.manifest
    batch = _batch(manifest.backbone.vocab_size)
    write_graph(
        tmp_path / "model.onnx",
        manifest,
        prm.weights,
        attention=attention,
    )
    ours = OnnxBackend(tmp_path / "model.onnx", manifest).run(batch)
    reference = TorchBackend(
        build_network(manifest.backbone, manifest.head, prm.weights), device="cpu"
    ).run(batch)
    theirs = _logits_of_transformers(backbone, prm, batch)
    for label, other in (("reference", reference), ("transformers", theirs)):
        difference = np.abs(ours - other)
        print(
            f"{name} {attention} {label}: max {difference.max():.1e} mean {difference.mean():.1e}"
        )
        assert difference.max() <= 1e-4
    assert np.ptp(theirs, axis=0).min() > 0.05  # rows differ, so agreement means something


@pytest.mark.parametrize("attention", ["group_query", "standard"])
def test_padding_and_later_tokens_cannot_leak(attention: AttentionOp, tmp_path: Path) -> None:
    save_published_prm(tmp_path, "qwen2")
    prm = load_prm(tmp_path)
    batch = _batch(prm.manifest.backbone.vocab_size)
    network = build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)
    write_graph(
        tmp_path / "model.onnx",
        prm.manifest,
        prm.weights,
        attention=attention,
    )
    changed = batch.token_ids.copy()
    changed[1, 23:] = 7
    changed[0, 18:39] = 9
    unaffected = [0, 1, 3, 4, 5]
    for backend in (
        OnnxBackend(tmp_path / "model.onnx", prm.manifest),
        TorchBackend(network, device="cpu"),
    ):
        before = backend.run(batch)
        after = backend.run(TokenBatch(changed, batch.lengths, batch.marker_positions))
        np.testing.assert_allclose(before[unaffected], after[unaffected], atol=1e-6)
        assert np.abs(before[2] - after[2]).max() > 1e-3


@pytest.mark.parametrize("float_type", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["llama-biases", "qwen2", "qwen3"])
def test_rounded_graphs_agree_with_torch_in_that_type(
    name: str, float_type: FloatType, tmp_path: Path
) -> None:
    """The emulation differs from float32 as much as torch in 16 bits does. In fp16 so does the
    graph itself, which ONNX Runtime can run on a CPU; bfloat16 it cannot."""
    save_published_prm(tmp_path, **BACKBONES[name])
    prm = load_prm(tmp_path)
    manifest = prm.manifest
    batch = _batch(manifest.backbone.vocab_size)
    runs = {}
    for emulated in (True, False):
        folder = tmp_path / str(emulated)
        folder.mkdir()
        write_graph(
            folder / "model.onnx",
            manifest,
            prm.weights,
            attention="standard",
            float_type=float_type,
            emulated=emulated,
        )
        if emulated or float_type == "fp16":
            runs[emulated] = OnnxBackend(folder / "model.onnx", manifest).run(batch)

    def reference(**options: Any) -> np.ndarray:
        network = build_network(manifest.backbone, manifest.head, prm.weights)
        return TorchBackend(network, device="cpu", **options).run(batch)

    exact = reference()
    rounded = reference(dtype={"fp16": "float16", "bf16": "bfloat16"}[float_type])
    usual = np.abs(rounded - exact).mean()
    assert usual > 0
    for found in runs.values():
        assert np.abs(found - exact).mean() < 2 * usual
    assert np.abs(runs[True] - exact).mean() > usual / 4


def test_group_query_attention_in_fp16(tmp_path: Path) -> None:
    """The fastest graph for ONNX Runtime's CUDA provider, which also runs on a CPU."""
    save_published_prm(tmp_path, "qwen2")
    prm = load_prm(tmp_path)
    batch = _batch(prm.manifest.backbone.vocab_size)
    runs = []
    for float_type in ("fp32", "fp16"):
        write_graph(
            tmp_path / f"{float_type}.onnx",
            prm.manifest,
            prm.weights,
            attention="group_query",
            float_type=float_type,  # type: ignore[arg-type]
        )
        runs.append(OnnxBackend(tmp_path / f"{float_type}.onnx", prm.manifest).run(batch))
    assert 0 < np.abs(runs[0] - runs[1]).max() < 0.02
