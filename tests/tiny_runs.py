"""Fixtures: a tiny base model and generated data, enough to train on in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tiny_models import byte_tokenizer
from tiny_problems import gold_row, solutions_row

CONFIG = """
name = "tiny"
seed = 3
[base]
kind = "folder"
path = "{base}"
[network]
num_layers = 3
first_trained_layer = 1
lora_rank = 2
lora_alpha = 4
lora_dropout = 0.1
precision = "float32"
[data]
gold = "{gold}"
model_solutions = "{solutions}"
num_constructed = 6
num_constructed_held_out = 3
num_folds = 3
held_out_fold = 0
[loss]
kind = "bce"
lambda_pair = 0.5
[optimizer]
learning_rate = 1e-3
head_learning_rate = 1e-2
num_epochs = 2
warmup_steps = 2
batch_tokens = 600
save_every_steps = 2
"""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama folder of four random layers with a byte-level tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-base")
    tokenizer = byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=1024,
    )
    # Exact in bfloat16, so that bfloat16 and float32 start from the same weights.
    LlamaForCausalLM(config).bfloat16().float().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``gold.jsonl`` and ``solutions.jsonl`` in GSM8K's formats, with generated sums."""
    folder = tmp_path_factory.mktemp("tiny-data")
    gold = [gold_row(index) for index in range(12)]
    solutions = [solutions_row(index) for index in range(6)]
    for name, rows in (("gold", gold), ("solutions", solutions)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def tiny_config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        CONFIG.format(
            base=tiny_base, gold=tiny_data / "gold.jsonl", solutions=tiny_data / "solutions.jsonl"
        ),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def write_config(tiny_config: Path) -> Callable[..., Path]:
    """Writes the tiny config with ``replacements`` (old text, new text) applied."""

    def write(*replacements: tuple[str, str], name: str = "changed.toml") -> Path:
        text = tiny_config.read_text(encoding="utf-8")
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tiny_config.with_name(name)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def rewarded_config(config: Path, train: Path, rule: str) -> Path:
    """``config`` changed to train on a file of rewarded trajectories; ``rule``: a line that says
    which are held out."""
    text = config.read_text(encoding="utf-8")
    start, end = text.index("[data]"), text.index("[loss]")
    data = f'[data]\nkind = "rewarded"\ntrain = ["{train}"]\n{rule}\n'
    config.write_text(text[:start] + data + text[end:], encoding="utf-8")
    return config


def parameters(folder: Path) -> dict[str, np.ndarray]:
    """The trained weights of a finished run."""
    heads = load_file(folder / "heads.safetensors")
    adapter = folder / "adapter_model.safetensors"
    return {**heads, **(load_file(adapter) if adapter.is_file() else {})}
