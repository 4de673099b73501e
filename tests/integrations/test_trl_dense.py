"""Advantages of steps in TRL's own trainer: the tokens that get them, and its loss on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime import Scorer, Trajectory
from rfprm_runtime.integrations.trl import process_reward
from rfprm_runtime.integrations.trl_dense import DenseAdvantages
from rfprm_runtime.rewards.dense import DenseCredit, step_advantages

# The warnings of TRL and its dependencies are not ours to fix.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

QUESTIONS = ["What is 6 times 7?", "What is 9 minus 4?"]
COMPLETIONS = [
    "6 * 7 = 42.\n\nThe answer is 42.",
    "First, six sixes are 36.\nAnd six more: 42.\n\nSo 42.",
    "<think>6 + 7 = 13.\n\nHm, ½ of it — 6.5.</think>It is 13.",
    "  \n ",  # cannot be scored
    "9 - 4 = 5.",
    "9 - 4 = 4.\n\nNo: 5.",
    "5",
    "Nine minus four.\n\nFive.\n\nSo 5.\n\nYes, 5.",
]


def _policy(vocabulary_size: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary_size, **sizes, **heads))


def _trainer(kind: str, tokenizer: Any, rewards: Any, folder: Path, **options: Any) -> Any:
    """A trainer whose policy always writes :data:`COMPLETIONS`."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        ids = [
            [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for text in COMPLETIONS
        ]
        asked = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        first = QUESTIONS.index(prompts[0]) * 4
        ids = ids[first:] + ids[:first]
        return {"prompt_ids": asked, "completion_ids": ids[: len(prompts)], "logprobs": None}

    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 80,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "seed": 0,
        **options.pop("settings", {}),
    }

    class Trainer(DenseAdvantages, trl.GRPOTrainer):  # type: ignore[misc, name-defined]
        pass

    return (Trainer if kind == "dense" else trl.GRPOTrainer)(
        model=_policy(len(tokenizer)),
        reward_funcs=rewards,
        args=trl.GRPOConfig(**settings),
        train_dataset=Dataset.from_list([{"prompt": q} for q in QUESTIONS]),
        processing_class=tokenizer,
        rollout_func=rollout,
        **options,
    )


def _batch(trainer: Any) -> dict[str, Any]:
    """What the trainer makes of a first batch."""
    (inputs,) = [next(iter(trainer.get_train_dataloader()))]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    found: dict[str, Any] = trainer._generate_and_score_completions(inputs)
    return found


@pytest.fixture
def reward(artifact: str) -> Any:
    return process_reward(artifact, backend="fake")


def test_every_token_has_the_advantage_of_its_step(
    artifact: str, reward: Any, policy_tokenizer: Any, tmp_path: Path
) -> None:
    credit = DenseCredit("progress", weight=0.7)
    plain = _batch(_trainer("plain", policy_tokenizer, reward, tmp_path))
    trainer = _trainer("dense", policy_tokenizer, reward, tmp_path, dense=credit)
    dense = _batch(trainer)
    assert plain["advantages"].shape == (8,)
    assert dense["advantages"].shape == dense["completion_ids"].shape
    assert (dense["completion_ids"] == plain["completion_ids"]).all()

    rows = dense["completion_ids"].tolist()
    texts = policy_tokenizer.batch_decode(rows, skip_special_tokens=True)
    order = [COMPLETIONS.index(text) for text in texts]
    questions = [QUESTIONS[index // 4] for index in order]
    with Scorer.load(artifact, backend="fake") as scorer:
        traces = [
            Trajectory.from_text(question, text) if text.strip() else None
            for question, text in zip(questions, texts, strict=True)
        ]
        scores = [None if t is None else scorer.score_batch([t])[0].step_scores for t in traces]
    expected = step_advantages(scores, 4, credit)
    for row, (text, trace) in enumerate(zip(texts, traces, strict=True)):
        added = dense["advantages"][row] - plain["advantages"][row]
        mask = dense["completion_mask"][row].bool()
        added = added[mask].numpy()
        if trace is None:
            assert np.abs(added).max() == 0.0
            continue
        # Character by character: the byte tokenizer has one token for each byte or known word.
        ends = np.cumsum([len(policy_tokenizer.decode([token]).encode()) for token in rows[row]])
        steps = expected[row]
        assert steps is not None
        cursor = 0
        for step, advantage in zip(trace.steps, steps, strict=True):
            begin = text.index(step, cursor)
            cursor = begin + len(step)
            inside = [
                added[token]
                for token, end in enumerate(ends[: len(added)])
                if len(text[:begin].encode()) < end <= len(text[: begin + len(step)].encode())
            ]
            assert inside
            assert np.array(inside) == pytest.approx(advantage, abs=1e-5)
        assert added[-1] == pytest.approx(0.0, abs=1e-5)  # the end of the text
    assert trainer._metrics["train"]["dense/without_steps"] == [1 / 8]
    assert trainer._metrics["train"]["dense/advantage_std"][0] > 0


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "cispo"])
def test_without_weight_it_trains_as_trl_does(
    reward: Any, policy_tokenizer: Any, tmp_path: Path, loss_type: str
) -> None:
    settings = {"loss_type": loss_type}
    # One after the other: a new trainer seeds the generator that shuffles completions.
    plain = _trainer("plain", policy_tokenizer, reward, tmp_path, settings=settings)
    plain.train()
    none = DenseCredit(weight=0.0)
    dense = _trainer("dense", policy_tokenizer, reward, tmp_path, settings=settings, dense=none)
    dense.train()
    for one, other in zip(plain.model.parameters(), dense.model.parameters(), strict=True):
        assert (one == other).all()
    losses = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (plain, dense)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


@pytest.mark.parametrize("reach", ["own", "to_go"])
def test_its_gradient_is_that_of_the_tokens_advantages(
    reward: Any, policy_tokenizer: Any, tmp_path: Path, reach: Any
) -> None:
    """On the first update the ratio is 1, so the gradient is that of −Σ A_t log π(t), in TRL's
    form ``grpo`` averaged over tokens, then over completions; written out here from the logits."""
    import torch

    credit = DenseCredit("min", reach)
    settings = {"loss_type": "grpo", "temperature": 1.0}
    trainer = _trainer("dense", policy_tokenizer, reward, tmp_path, settings=settings, dense=credit)
    batch = _batch(trainer)
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, batch).backward()
    theirs = [parameter.grad.clone() for parameter in trainer.model.parameters()]

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    trainer.model.zero_grad()
    logits = trainer.model(input_ids=ids, attention_mask=seen).logits
    length = batch["completion_ids"].shape[1]
    chances = torch.log_softmax(logits[:, -length - 1 : -1], dim=-1)
    picked = chances.gather(2, batch["completion_ids"][:, :, None])[:, :, 0]
    mask = batch["completion_mask"]
    weighted = (batch["advantages"] * picked * mask).sum(1) / mask.sum(1)
    (-weighted.mean()).backward()
    for one, parameter in zip(theirs, trainer.model.parameters(), strict=True):
        assert torch.allclose(one, parameter.grad, atol=1e-6)
    assert any(one.abs().max() > 1e-4 for one in theirs)


def test_it_trains(reward: Any, policy_tokenizer: Any, tmp_path: Path) -> None:
    trainer = _trainer("dense", policy_tokenizer, [lambda **c: [0.5] * 8, reward], tmp_path)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["dense/without_steps"] == 1 / 8 for entry in logged)


def test_of_several_process_rewards_the_first_counts(
    artifact: str, policy_tokenizer: Any, tmp_path: Path
) -> None:
    """Whichever answers first: async functions are awaited after the others."""
    slow = process_reward(artifact, backend="fake", name="steps", asynchronous=True)
    lines = process_reward(artifact, backend="fake", name="whole", split="lines")
    blank_lines = process_reward(artifact, backend="fake")
    both = _batch(_trainer("dense", policy_tokenizer, [slow, lines], tmp_path))
    alone = _batch(_trainer("dense", policy_tokenizer, blank_lines, tmp_path))
    for found in (both, alone):
        found["advantages"] -= found["advantages"][:, :1].clone()
        found["advantages"] *= found["completion_mask"]
    assert (both["completion_ids"] == alone["completion_ids"]).all()
    assert np.allclose(both["advantages"], alone["advantages"], atol=1e-5)


def test_what_it_cannot_do_is_refused(reward: Any, policy_tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 1 reward functions is a process reward"):
        _trainer("dense", policy_tokenizer, lambda **c: [0.5] * 8, tmp_path)
    with pytest.raises(ValueError, match="expected a DenseCredit"):
        _trainer("dense", policy_tokenizer, reward, tmp_path, dense="progress")
