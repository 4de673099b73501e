"""verl's contract, called directly and through verl's own loader, workers and managers.

verl pins other versions of our dependencies; ``pip install --no-deps verl`` and a few small
packages are enough for these tests.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime.integrations.verl import (
    compute_score,
    compute_score_async,
    compute_score_batch,
)
from rfprm_runtime.rewards.advantages import group_advantages

QUESTION = "What is 6 times 7?"
RIGHT, WRONG = "6 * 7 = 42.\n\nThe answer is 42.", "6 + 7 = 13.\n\nSo 13."
INFO = {"split": "train", "index": 0, "question": QUESTION, "answer": "… #### 42"}
KEYS = {"score", "process", "num_steps", "scored", "acc"}


@pytest.fixture
def kwargs(artifact: str) -> dict[str, Any]:
    return {"artifact": artifact, "backend": "fake"}


def test_the_score_is_equation_12_next_to_its_parts(kwargs: dict[str, Any], expected: Any) -> None:
    found = compute_score("openai/gsm8k", RIGHT, "42", INFO, **kwargs)
    process = expected(QUESTION, RIGHT)
    assert found == {
        "score": pytest.approx(0.25 + 0.75 * process),
        "process": process,
        "num_steps": 2.0,
        "scored": 1.0,
        "acc": 1.0,
    }
    assert compute_score("openai/gsm8k", WRONG, "42", INFO, **kwargs)["acc"] == 0.0


def test_the_artifact_may_come_from_the_environment(
    artifact: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFPRM_ARTIFACT", artifact)
    found = compute_score("x", RIGHT, None, INFO, outcome=False, backend="fake")
    assert found["score"] == expected(QUESTION, RIGHT)
    assert set(found) == KEYS - {"acc"}


def test_threads_share_batches_and_get_their_own_scores(
    kwargs: dict[str, Any], expected: Any
) -> None:
    texts = [f"6 * 7 = {index}.\n\nThe answer is {index}." for index in range(64)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda t: compute_score("x", t, "42", INFO, **kwargs), texts))
    assert [x["process"] for x in found] == [expected(QUESTION, text) for text in texts]
    assert [x["acc"] for x in found] == [float(index == 42) for index in range(64)]


def test_scores_can_be_awaited(kwargs: dict[str, Any]) -> None:
    async def ask() -> list[dict[str, float]]:
        calls = [compute_score_async("x", text, "42", INFO, **kwargs) for text in (RIGHT, WRONG)]
        return list(await asyncio.gather(*calls))

    assert asyncio.run(ask()) == compute_score_batch(
        ["x"] * 2, [RIGHT, WRONG], ["42"] * 2, [INFO] * 2, **kwargs
    )


def test_an_unscorable_sample_has_the_same_keys(
    kwargs: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = compute_score("x", " ", "42", INFO, unscorable=-1.0, **kwargs)
    assert found == {"score": -1.0, "process": 0.0, "num_steps": 0.0, "scored": 0.0, "acc": 0.0}
    assert "cannot be scored" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_info": {"index": 1}}, r"extra_info has no 'question', it has \['index'\]"),
        ({"extra_info": None}, "no 'question'"),
        ({"ground_truth": ""}, "no ground truth"),
        ({"ground_truth": float("nan")}, "no ground truth"),
        ({"artifact": ""}, "RFPRM_ARTIFACT"),
        ({"outcome": "no"}, "outcome is 'no', expected True or False"),
        ({"unscorable": float("nan")}, "unscorable is nan, expected a finite number"),
        ({"bta": 0.5}, r"unknown setting 'bta', expected some of \['artifact', 'question_key', "),
    ],
)
def test_missing_or_invalid_arguments_stop_the_run(
    kwargs: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    sample = {
        "data_source": "x",
        "solution_str": RIGHT,
        "ground_truth": "42",
        "extra_info": INFO,
        **kwargs,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        compute_score(**sample)


@pytest.mark.parametrize("solution", [None, 3, ["42"], {"role": "assistant"}])
def test_a_solution_that_is_no_text_is_unscorable(kwargs: dict[str, Any], solution: Any) -> None:
    found = compute_score("x", solution, "42", INFO, **kwargs, unscorable=-1.0)
    assert (found["score"], found["scored"], found["acc"]) == (-1.0, 0.0, 0.0)


def test_a_batch_needs_one_of_each_per_sample(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ground_truths: got 1 values for 2 solution_strs"):
        compute_score_batch(["x"] * 2, [RIGHT, WRONG], ["42"], [INFO] * 2, **kwargs)
    with pytest.raises(ValueError, match="ground_truths: got '42' for 2 solution_strs"):
        compute_score_batch(["x"] * 2, [RIGHT, WRONG], "42", [INFO] * 2, **kwargs)


@pytest.fixture
def verl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("verl", reason="verl is not installed", exc_type=ImportError)


def _config(kwargs: dict[str, Any], name: str = "compute_score", **model: Any) -> Any:
    from omegaconf import OmegaConf

    function = {
        "path": "pkg://rfprm_runtime.integrations.verl",
        "name": name,
        "reward_kwargs": {**kwargs, "beta": 0.5},
    }
    return OmegaConf.create(
        {
            "reward": {
                "custom_reward_function": function,
                "reward_manager": {"source": "register", "name": "naive"},
                "reward_model": {"enable": False},
            },
            "actor_rollout_ref": {"model": model},
        }
    )


def _data(tokenizer: Any, texts: list[str]) -> Any:
    """What an agent loop passes to the reward: left-padded prompts, right-padded responses."""
    import torch
    from verl import DataProto

    rows = [tokenizer.encode(text + "<|im_end|>") for text in texts]
    width = max(map(len, rows))
    responses = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    prompts = torch.tensor([tokenizer.encode(QUESTION)] * len(rows))
    objects: dict[str, list[Any]] = {
        "data_source": ["openai/gsm8k"] * len(rows),
        "reward_model": [{"style": "rule", "ground_truth": "42"} for _ in rows],
        "extra_info": [dict(INFO) for _ in rows],
    }
    return DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": responses,
            "attention_mask": torch.cat([torch.ones_like(prompts), mask], dim=1),
        },
        non_tensors={name: np.array(values, dtype=object) for name, values in objects.items()},
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["compute_score", "compute_score_async"])
def test_verls_reward_worker_loads_and_calls_it(
    verl: Any,
    name: str,
    kwargs: dict[str, Any],
    expected: Any,
    policy_tokenizer: Any,
    tmp_path: Path,
) -> None:
    from verl.experimental.reward_loop import RewardLoopWorker

    policy_tokenizer.save_pretrained(tmp_path)

    async def run() -> Any:
        config = _config(kwargs, name, tokenizer_path=str(tmp_path), path=str(tmp_path))
        worker = RewardLoopWorker(config)
        return await worker.compute_score_batch(_data(policy_tokenizer, [RIGHT, WRONG] * 8))

    found = asyncio.run(run())
    wanted = [0.5 + 0.5 * expected(QUESTION, RIGHT), 0.5 * expected(QUESTION, WRONG)] * 8
    assert [x["reward_score"] for x in found] == pytest.approx(wanted)
    assert all(set(x["reward_extra_info"]) == KEYS for x in found)


@pytest.mark.filterwarnings("default")
def test_verls_batch_manager_calls_it_once(
    verl: Any, kwargs: dict[str, Any], expected: Any, policy_tokenizer: Any
) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.workers.reward_manager import get_reward_manager_cls

    function = get_custom_reward_fn(_config(kwargs, "compute_score_batch"))
    manager = get_reward_manager_cls("batch")(policy_tokenizer, 0, function)
    data = _data(policy_tokenizer, [RIGHT, WRONG])
    found = manager(data, return_dict=True)
    wanted = [0.5 + 0.5 * expected(QUESTION, RIGHT), 0.5 * expected(QUESTION, WRONG)]
    assert found["reward_tensor"].sum(dim=1).tolist() == pytest.approx(wanted)
    # At the last token of each response, not on the padding after it.
    lengths = data.batch["attention_mask"][:, data.batch["prompts"].shape[1] :].sum(dim=1)
    assert found["reward_tensor"].nonzero()[:, 1].tolist() == (lengths - 1).tolist()
    assert found["reward_extra_info"]["acc"] == [1.0, 0.0]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("by_spread", [True, False])
def test_our_advantages_match_verls_with_its_epsilon(verl: Any, by_spread: bool) -> None:
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards = np.random.default_rng(0).random(24)
    groups = np.array([index % 6 for index in range(24)])
    found, _ = compute_grpo_outcome_advantage(
        token_level_rewards=torch.tensor(rewards)[:, None],
        response_mask=torch.ones(24, 1, dtype=torch.float64),
        index=groups,
        norm_adv_by_std_in_grpo=by_spread,
    )
    ours = group_advantages(
        rewards, group_ids=groups.tolist(), epsilon=1e-6, scale="group" if by_spread else "none"
    )
    np.testing.assert_allclose(found[:, 0].numpy(), ours, rtol=1e-5, atol=1e-6)
