from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rfprm_export import ExportError
from rfprm_export.checkpoint import load_prm
from rfprm_export.qwen2_layout import (
    FAMILY_FIELD,
    check_is_not_for_servers,
    two_class_head,
    write_qwen2_layout,
)
from rfprm_runtime.artifact.families import FAMILIES
from rfprm_runtime.artifact.manifest import Calibration, Readout
from rfprm_runtime.scores.readout import read_scores
from rfprm_runtime.types import Trajectory
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.learning.trainer import Trainer
from tiny_models import QWEN_TOKENS, byte_tokenizer

CONFIG = """
name = "tiny-qwen"
family = "rfprm-qwen"
[base]
kind = "folder"
path = "{base}"
[network]
num_layers = 2
first_trained_layer = 0
lora_rank = 2
lora_alpha = 4
[data]
kind = "rewarded"
train = ["{data}"]
[optimizer]
learning_rate = 1e-2
head_learning_rate = 5e-2
num_epochs = 4
batch_tokens = 800
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PRM trained for a few steps on a random Qwen2 with Qwen's own special tokens."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("qwen2")
    base = folder / "base"
    base.mkdir()
    tokenizer = byte_tokenizer(QWEN_TOKENS)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=512,
    )
    Qwen2ForCausalLM(config).save_pretrained(base)
    tokenizer.save(str(base / "tokenizer.json"))
    rows = [
        {
            "question": f"What is {i} + 2?",
            "steps": [f"{i} + 2 = {i + 2 + i % 2}", "Done."],
            "response": ["That is it."],
            "step_rewards": [1.0 - i % 2, 1.0 - i % 2],
            "trajectory_reward": 1.0 - i % 2,
        }
        for i in range(16)
    ]
    data = folder / "rewarded.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "config.toml"
    path.write_text(CONFIG.format(base=base, data=data))
    return Trainer(path, folder / "run", device="cpu").run()


TRAJECTORIES = [
    Trajectory(question="What is 3 + 2?", steps=("3 + 2 = 5", "So 5."), response=("5",)),
    Trajectory(question="Why?", steps=("Because.",)),
]


def test_the_layout_gives_the_same_step_scores(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    write_qwen2_layout(load_prm(checkpoint), folder)
    loaded = load_prm(folder)
    assert loaded.manifest.family == "qwen2.5-math-prm"
    assert loaded.manifest.trajectory_readout is None
    with open_scorer(checkpoint) as ours:
        expected = ours.score_batch(TRAJECTORIES)
    assert all(score.trajectory_score is not None for score in expected)
    from rfprm_runtime.backends.torch import TorchBackend, build_network
    from rfprm_runtime.prompt.encoding import TrajectoryEncoder
    from rfprm_runtime.scorer import Scorer

    manifest = loaded.manifest
    encoder = TrajectoryEncoder(
        loaded.tokenizer, manifest.prompt, vocab_size=manifest.backbone.vocab_size
    )
    network = build_network(manifest.backbone, manifest.head, loaded.weights)
    with Scorer(manifest, encoder, TorchBackend(network)) as theirs:
        found = theirs.score_batch(TRAJECTORIES)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.step_scores, other.step_scores, atol=1e-6)


def test_transformers_qwen2_reads_the_layout(checkpoint: Path, tmp_path: Path) -> None:
    """The backbone by transformers and the head by hand, as in Qwen's snippet."""
    from transformers import AutoTokenizer, Qwen2Model

    folder = tmp_path / "layout"
    write_qwen2_layout(load_prm(checkpoint), folder)
    body = Qwen2Model.from_pretrained(folder).eval()
    weights = {k: torch.tensor(v) for k, v in load_file(folder / "model.safetensors").items()}
    head = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    head.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("score.")})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trajectory = TRAJECTORIES[0]
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    text = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{trajectory.question}<|im_end|>"
        f"\n<|im_start|>assistant\n{'<extra_0>'.join(trajectory.steps)}<extra_0>"
    )
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.inference_mode():
        logits = head(body(ids).last_hidden_state)[0]
    marker = tokenizer.convert_tokens_to_ids("<extra_0>")
    chances = logits.softmax(-1)[ids[0] == marker, 1]
    with open_scorer(checkpoint) as ours:
        (score,) = ours.score_batch([trajectory])
    np.testing.assert_allclose(chances.numpy(), score.step_scores, atol=1e-5)


def test_a_calibrated_readout_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    prm = load_prm(checkpoint)
    readout = prm.manifest.step_readout
    calibrated = readout.model_copy(update={"calibration": Calibration(temperature=2, bias=0.3)})
    manifest = prm.manifest.model_copy(update={"step_readout": calibrated})
    weights = two_class_head(prm.weights, manifest)
    hidden = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    inner = np.maximum(hidden @ weights["score.0.weight"].T + weights["score.0.bias"], 0)
    logits = inner @ weights["score.2.weight"].T + weights["score.2.bias"]
    plain = hidden @ prm.weights["score.weight"].T + prm.weights["score.bias"]
    softmax = Readout(transform="softmax", positive=1)
    np.testing.assert_allclose(
        read_scores(logits, softmax), read_scores(plain, calibrated), atol=1e-5
    )


def test_other_backbones_are_refused(tmp_path: Path) -> None:
    from rfprm_export.shipped import shipped_checkpoint

    with pytest.raises(ExportError, match="for Qwen2 backbones"):
        write_qwen2_layout(load_prm(shipped_checkpoint()), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(ExportError, match="exists"):
        write_qwen2_layout(load_prm(checkpoint), tmp_path / "x")


def test_both_families_read_steps_alike() -> None:
    ours, theirs = FAMILIES["rfprm-qwen"], FAMILIES["qwen2.5-math-prm"]
    for one, other in zip(ours.pieces, theirs.pieces, strict=False):
        assert one.model_dump(exclude={"joins"}) == other.model_dump(exclude={"joins"})


def test_a_layout_without_its_prompt_is_not_exported_with_another(tmp_path: Path) -> None:
    """Its architecture would give it the prompt of Qwen2.5-Math-PRM."""
    with pytest.raises(ExportError, match="lacks the prompt of its family 'token-classifier'"):
        check_is_not_for_servers(tmp_path, {FAMILY_FIELD: "token-classifier"})
    check_is_not_for_servers(tmp_path, {})
    for same in ("rfprm-qwen", "qwen2.5-math-prm"):
        check_is_not_for_servers(tmp_path, {FAMILY_FIELD: same})
