"""The checkpoints in this repository are whole: what can be told without their base models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfprm_export.checkpoint import checkpoint_digest, read_checkpoint
from rfprm_export.lora import read_adapter_config
from rfprm_export.reference import REFERENCE_NAMES
from rfprm_export.weights_files import open_safetensors
from rfprm_training.learning.config import read_config

MODELS = Path(__file__).resolve().parents[2] / "models"
FOLDERS = sorted(path.parent.name for path in MODELS.glob("*/checkpoint.json"))


def test_the_models_are_there() -> None:
    assert {"smollm2-135m-gsm8k", "qwen2.5-coder-1.5b-gsm8k"} <= set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_checkpoint_is_whole_and_says_what_it_is(name: str) -> None:
    folder = MODELS / name
    checkpoint, config = read_checkpoint(folder), read_config(folder / "config.toml")
    assert checkpoint.name == config.name == name
    assert checkpoint.base == config.base
    assert checkpoint.base.kind == "gguf"
    assert len(checkpoint.base.sha256) == 64
    assert checkpoint.base.package or checkpoint.base.repository
    adapter = read_adapter_config(folder)
    network = config.network
    assert (adapter.r, adapter.lora_alpha) == (network.lora_rank, network.lora_alpha)
    stored = open_safetensors(folder / "adapter_model.safetensors")
    trained = network.num_layers - network.first_trained_layer
    assert len(stored) == 2 * trained * len(network.lora_targets)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10 * 2**20


@pytest.mark.parametrize("name", FOLDERS)
def test_recorded_scores_are_those_of_the_checkpoint(name: str) -> None:
    for file in REFERENCE_NAMES.values():
        recorded = json.loads((MODELS / name / file).read_text(encoding="utf-8"))
        assert recorded["checkpoint_sha256"] == checkpoint_digest(MODELS / name)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_card_has_results_and_names_no_place_of_one_machine(name: str) -> None:
    for file in ("README.md", "config.toml", "data.json", "evaluation.json"):
        text = (MODELS / name / file).read_text(encoding="utf-8")
        assert "Not measured yet" not in text
        assert not any(place in text for place in ("/work/", "/tmp/", "/root/", "/home/"))
