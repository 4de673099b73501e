"""The reference network a layer at a time gives the scores of the whole network."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from rfprm_export import ExportError
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import load_prm
from rfprm_export.verify import score_by_reference
from rfprm_runtime import Trajectory
from tiny_models import SCALED, save_published_prm

TRACES = [
    Trajectory(question="1 + 1?", steps=["1 + 1 = 2", "so it is 2", "yes"]),
    Trajectory(question="What is it?", steps=["It is long: " + "a b c " * 20, "and ends"]),
    Trajectory(question="Windows?", steps=[f"step {i} " * 12 for i in range(12)]),
]


@pytest.mark.parametrize(
    "kind",
    [
        {"kind": "qwen2", "num_heads": 4, "num_kv_heads": 1},
        {"kind": "qwen3", "num_heads": 4, "num_kv_heads": 2},
        {"kind": "llama", "attention_bias": True, "mlp_bias": True},
        {"kind": "llama", "rope_scaling": SCALED["llama3"]},
    ],
    ids=["qwen2", "qwen3", "biases", "llama-3.1"],
)
def test_layer_by_layer_gives_the_scores_of_the_whole_network(
    kind: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_published_prm(tmp_path, **kind)  # type: ignore[arg-type]
    _, expected = score_by_reference(load_prm(tmp_path), TRACES)
    monkeypatch.setattr("rfprm_export.stored_weights._KEPT_BYTES", 0)
    description, found = score_by_reference(load_prm(tmp_path), TRACES)
    assert description.endswith("a layer at a time")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.step_scores, theirs.step_scores, atol=1e-6)
        assert ours.windowed_from == theirs.windowed_from
    assert found[2].windowed_from is not None


def test_an_export_beyond_memory_is_verified(
    published_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfprm_export.stored_weights._KEPT_BYTES", 0)
    traces = tmp_path / "traces.jsonl"
    traces.write_text(TRACES[0].model_dump_json() + "\n", encoding="utf-8")
    parity = export_artifact(published_prm, tmp_path / "out", verify_traces=traces).parity
    assert parity is not None
    assert parity.reference.endswith("a layer at a time")
    assert parity.max_difference < 1e-4


def test_weights_that_change_during_verification_are_noticed(
    published_prm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfprm_export.stored_weights._KEPT_BYTES", 0)
    folder = shutil.copytree(published_prm, tmp_path / "model")
    prm = load_prm(folder)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ExportError, match="was changed while it was read"):
        score_by_reference(prm, TRACES)
