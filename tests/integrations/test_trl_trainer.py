"""TRL's own trainer and rollout worker with a small random policy and our reward functions."""

from __future__ import annotations

import json
import math
import queue
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime.integrations.trl import Oversampling, process_reward
from rfprm_runtime.rewards import down_sample, group_advantages, mixed_reward

# The warnings of TRL and its dependencies are not ours to fix.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

QUESTIONS = ["What is 6 times 7?", "What is 9 minus 4?"]
ANSWERS = ["42", "5"]
RIGHT, WRONG = "6 * 7 = 42.\n\nThe answer is 42.", "6 + 7 = 13.\n\nSo 13."


def _policy(vocabulary_size: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary_size, **sizes, **heads))


def _trainer(rewards: Any, tokenizer: Any, folder: Path, prompts: list[Any], **options: Any) -> Any:
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "logging_steps": 1,
        "log_completions": True,
        "num_completions_to_print": 0,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "seed": 0,
    }
    return trl.GRPOTrainer(
        model=_policy(len(tokenizer)),
        reward_funcs=rewards,
        args=trl.GRPOConfig(**settings, reward_weights=options.pop("reward_weights", None)),
        train_dataset=Dataset.from_list(
            [{"prompt": p, "answer": a} for p, a in zip(prompts, ANSWERS, strict=True)]
        ),
        processing_class=tokenizer,
        **options,
    )


def _tables(folder: Path) -> list[Any]:
    pandas = pytest.importorskip("pandas")
    tables = [pandas.read_parquet(path) for path in sorted(folder.glob("completions/*.parquet"))]
    assert [len(table) for table in tables] == [8, 8]
    return tables


def _logged(trainer: Any) -> list[dict[str, float]]:
    entries = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert all(math.isfinite(entry["grad_norm"]) for entry in entries)
    return entries


def test_grpo_trains_on_our_rewards_and_its_advantages_are_equation_12(
    artifact: str, expected: Any, policy_tokenizer: Any, tmp_path: Path
) -> None:
    """Two process rewards of different settings, one of them async; prompts are messages."""
    from rfprm_runtime import RfprmError
    from rfprm_runtime.answers.compare import answers_agree
    from rfprm_runtime.answers.extraction import final_answer

    rewards = [
        process_reward(artifact, backend="fake", outcome="answer"),
        process_reward(artifact, backend="fake", name="alone", asynchronous=True),
    ]
    prompts = [[{"role": "user", "content": q}] for q in QUESTIONS]
    trainer = _trainer(rewards, policy_tokenizer, tmp_path, prompts, reward_weights=[1.0, 0.5])
    trainer.train()

    tables, logged = _tables(tmp_path), _logged(trainer)
    for table, entry in zip(tables, logged, strict=True):
        mixed, alone = [], []
        for prompt, completion in zip(table["prompt"], table["completion"], strict=True):
            question, text = prompt[-1]["content"], completion[-1]["content"]
            target = ANSWERS[QUESTIONS.index(question)]
            right = answers_agree(final_answer(text), target) is True
            try:
                alone.append(expected(question, text))
            except RfprmError:
                alone.append(math.nan)
            mixed.append(0.25 * right + 0.75 * alone[-1])
        np.testing.assert_allclose(table["process_reward_function"], mixed, rtol=1e-6)
        np.testing.assert_allclose(table["alone"], alone, rtol=1e-6)
        np.testing.assert_allclose(table["alone/process"], alone, rtol=1e-6)
        total = np.array(mixed) + 0.5 * np.array(alone)
        advantages = group_advantages(total, 4)
        np.testing.assert_allclose(table["advantage"], advantages, rtol=1e-3, atol=1e-3)
        assert np.abs(advantages).max() > 0.1
        assert entry["reward"] == pytest.approx(np.nanmean(total))
        assert entry["rewards/alone/mean"] == pytest.approx(np.nanmean(alone))
        assert entry["process_reward/process"] == pytest.approx(entry["alone/process"])
        assert entry["alone/seconds"] > 0


def test_a_completion_without_a_process_reward_gains_nothing_from_other_rewards(
    artifact: str, expected: Any, policy_tokenizer: Any, tmp_path: Path
) -> None:
    texts = ["\n", RIGHT, WRONG, "Who knows?"] * 2

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = [policy_tokenizer.encode(f"{text}<|im_end|>") for text in texts]
        return {
            "prompt_ids": [policy_tokenizer.encode(prompt) for prompt in prompts],
            "completion_ids": ids,
            "logprobs": None,
        }

    def short(completions: list[str], **_: Any) -> list[float]:
        return [1.0 if len(text) < 2 else 0.2 for text in completions]

    process = process_reward(artifact, backend="fake")
    trainer = _trainer(
        [short, process],
        policy_tokenizer,
        tmp_path,
        QUESTIONS,
        rollout_func=rollout,
        reward_weights=[0.3, 0.7],
    )
    known = [[expected(q, text) for text in texts[1:4]] for q in QUESTIONS]
    total = [[None, *(0.06 + 0.7 * reward for reward in rewards)] for rewards in known]
    inputs = [{"prompt": q, "answer": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]

    def advantages() -> np.ndarray:
        return trainer._generate_and_score_completions([x for x in inputs for _ in range(4)])[
            "advantages"
        ].numpy()

    for scale in ("group", "batch", "none"):
        trainer.scale_rewards = scale
        wanted = group_advantages([*total[0], *total[1]], 4, scale=scale)
        np.testing.assert_allclose(advantages(), wanted, rtol=1e-3, atol=1e-3)
        assert wanted[0] == wanted[4] == 0
    trainer.multi_objective_aggregation = "normalize_then_sum"
    found = advantages()
    assert found[0] == found[4] == 0
    assert np.sign(found[1:4]) == pytest.approx(np.sign(group_advantages(known[0], 3)))

    # What TRL does with a function that is not ours: the completion nobody scored wins.
    trainer.multi_objective_aggregation, trainer.scale_rewards = "sum_then_normalize", "group"
    trainer.reward_funcs[1] = lambda **columns: process(**columns)
    trainer.reward_weights[1] = 0.1
    assert advantages()[0] > 1


def test_grpo_trains_on_the_best_choice_of_many_completions(
    artifact: str, expected: Any, policy_tokenizer: Any, tmp_path: Path
) -> None:
    seen: list[str] = []

    def dots(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        assert set(answer) == set(ANSWERS)
        seen.extend(completions)
        return [0.01 * text.count(".") for text in completions]

    sampling = Oversampling(
        [process_reward(artifact, backend="fake"), dots], times=3, keep="max_variance"
    )
    trainer = _trainer(
        sampling.rewards, policy_tokenizer, tmp_path, QUESTIONS, rollout_func=sampling.rollout
    )
    trainer.train()

    assert len(seen) == 2 * 3 * 8  # each completion was scored once
    tables = _tables(tmp_path)
    for step, (table, entry) in enumerate(zip(tables, _logged(trainer), strict=True)):
        wanted = []
        for group in range(2):
            texts = seen[24 * step + 12 * group : 24 * step + 12 * (group + 1)]
            question = table["prompt"][4 * group]
            totals = np.array([expected(question, x) + 0.01 * x.count(".") for x in texts])
            kept = down_sample(totals, 4)
            assert list(table["completion"][4 * group : 4 * group + 4]) == [texts[i] for i in kept]
            wanted += [totals[i] for i in kept]
        np.testing.assert_allclose(
            table["process_reward_function"] + table["dots"], wanted, rtol=1e-5
        )
        np.testing.assert_allclose(
            table["advantage"], group_advantages(wanted, 4), rtol=1e-3, atol=1e-3
        )
        assert entry["oversampling/reward_kept"] == pytest.approx(entry["reward"])
        assert entry["oversampling/spread_kept"] > entry["oversampling/spread_sampled"]


@pytest.fixture
def generation_server(policy_tokenizer: Any) -> Iterator[str]:
    """Stands in for vLLM: right and wrong completions in turn."""
    turns = iter([RIGHT, WRONG, "", WRONG] * 1000)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            ids = policy_tokenizer.encode(f"{next(turns)}<|im_end|>")
            choice = {"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}
            body = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_async_grpo_scores_in_its_spawned_child(
    artifact: str,
    expected: Any,
    policy_tokenizer: Any,
    generation_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    module = pytest.importorskip("trl.experimental.async_grpo.async_rollout_worker")
    from accelerate import PartialState
    from datasets import Dataset
    from trl.chat_template_utils import qwen2_5_chat_template

    PartialState()  # TRL's logger needs it
    # The worker talks to vLLM by HTTP; vLLM itself cannot be installed without a GPU.
    monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    policy_tokenizer.chat_template = qwen2_5_chat_template
    row = {"prompt": [{"role": "user", "content": QUESTIONS[0]}], "answer": "42"}
    worker = module.AsyncRolloutWorker(
        model_name="policy",
        dataset=Dataset.from_list([row]),
        reward_funcs=[
            process_reward(artifact, backend="fake", outcome="answer"),
            process_reward(artifact, backend="fake", asynchronous=True),
        ],
        processing_class=policy_tokenizer,
        eos_token_ids=[policy_tokenizer.eos_token_id],
        num_generations=4,
        max_inflight_tasks=4,
        vllm_server_url=generation_server,
    )
    worker.start()
    try:
        samples = [_next_sample(worker) for _ in range(4)]
    finally:
        worker.stop()
    texts = [sample.completion[-1]["content"] for sample in samples]
    assert sorted(texts) == sorted([RIGHT, WRONG, "", WRONG])
    process = np.array([expected(QUESTIONS[0], text) if text else math.nan for text in texts])
    mixed = mixed_reward([text == RIGHT for text in texts], process)
    for name, wanted in (
        ("rewards/process_reward_function", mixed),
        ("rewards/process_reward_function_async", process),
        ("reward", mixed + process),
    ):
        found = [sample.metrics[name] for sample in samples]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(
        [sample.advantage for sample in samples],
        group_advantages(mixed + process, 4, ddof=0, epsilon=1e-8),
        rtol=1e-4,
    )


def _next_sample(worker: Any) -> Any:
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        try:
            return worker.rollout_buffer.get(timeout=1.0)
        except queue.Empty:
            worker.check_health(stale_after_s=120.0)
    raise TimeoutError("the rollout worker produced no sample in 120 s")
