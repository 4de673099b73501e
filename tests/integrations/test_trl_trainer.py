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

from rfprm_runtime.integrations.trl import process_reward
from rfprm_runtime.rewards.advantages import group_advantages, mixed_reward

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


@pytest.mark.parametrize(
    ("asynchronous", "conversational"), [(False, False), (True, True)], ids=["sync", "async"]
)
def test_grpo_trains_on_our_rewards_and_its_advantages_are_equation_12(
    asynchronous: bool,
    conversational: bool,
    artifact: str,
    expected: Any,
    policy_tokenizer: Any,
    tmp_path: Path,
) -> None:
    trl = pytest.importorskip("trl")
    pandas = pytest.importorskip("pandas")
    from datasets import Dataset

    from rfprm_runtime import RfprmError
    from rfprm_runtime.answers.compare import answers_agree
    from rfprm_runtime.answers.extraction import final_answer

    prompts = [[{"role": "user", "content": q}] if conversational else q for q in QUESTIONS]
    trainer = trl.GRPOTrainer(
        model=_policy(len(policy_tokenizer)),
        reward_funcs=process_reward(
            artifact, backend="fake", outcome="answer", asynchronous=asynchronous
        ),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=6,
            logging_steps=1,
            log_completions=True,
            num_completions_to_print=0,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            seed=0,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": p, "answer": a} for p, a in zip(prompts, ANSWERS, strict=True)]
        ),
        processing_class=policy_tokenizer,
    )
    trainer.train()

    tables = [pandas.read_parquet(path) for path in sorted(tmp_path.glob("completions/*.parquet"))]
    assert [len(table) for table in tables] == [8, 8]
    name = "process_reward_function" + "_async" * asynchronous
    for table in tables:
        wanted = []
        for prompt, completion in zip(table["prompt"], table["completion"], strict=True):
            question = prompt[-1]["content"] if conversational else prompt
            text = completion[-1]["content"] if conversational else completion
            target = ANSWERS[QUESTIONS.index(question)]
            right = answers_agree(final_answer(text), target) is True
            try:
                wanted.append(0.25 * right + 0.75 * expected(question, text))
            except RfprmError:
                wanted.append(math.nan)
        np.testing.assert_allclose(table[name], wanted, rtol=1e-6)
        advantages = group_advantages(wanted, 4)
        np.testing.assert_allclose(table["advantage"], advantages, rtol=1e-3, atol=1e-3)
        assert np.abs(advantages).max() > 0.1
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert [entry["reward"] for entry in logged] == pytest.approx(
        [np.nanmean(t[name]) for t in tables]
    )
    assert all(math.isfinite(entry["grad_norm"]) for entry in logged)
    assert {"process_reward/process", "process_reward/seconds"} <= set(logged[0])


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
