"""Clients against a real OpenAI-compatible server with a real model: ``transformers serve``.

All of them are in one file, so that tests that run in parallel start one server.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rfprm_runtime.search import BestOfN, Budget, Searcher
from rfprm_runtime.search.completion_proposer import CompletionProposer
from rfprm_runtime.search.step_format import StepFormat
from rfprm_training.labelling.config import LabelConfig
from rfprm_training.labelling.expert.client import ExpertClient
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.label_file import label_file
from rfprm_training.rewarded import read_rewarded
from tiny_models import fake_scorer

pytestmark = pytest.mark.slow

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder."""
    from transformers import PreTrainedTokenizerFast

    from rfprm_export.base_model import read_base_model
    from rfprm_export.checkpoint import read_checkpoint
    from rfprm_export.named_base import find_base_model
    from rfprm_export.shipped import shipped_checkpoint
    from rfprm_training.construction.sampling.line_sampler import language_model

    checkpoint = shipped_checkpoint()
    base = read_base_model(find_base_model(read_checkpoint(checkpoint).base, checkpoint))
    folder = tmp_path_factory.mktemp("smollm2")
    language_model(base).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=base.tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server_url(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    program = Path(sys.executable).with_name("transformers")
    process = subprocess.Popen(
        [program, "serve", chat_model, "--port", str(port), "--device", "cpu"],
        stdout=log,
        stderr=log,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the server did not come up"
            try:
                if httpx.get(f"http://localhost:{port}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield f"http://localhost:{port}/v1"
    finally:
        process.terminate()
        process.wait()
        log.close()


def expert(url: str, chat_model: Path, folder: Path) -> ExpertConfig:
    return ExpertConfig(
        base_url=url,
        model=str(chat_model),
        cache=folder / "cache.sqlite",
        max_answer_tokens=24,
        max_repairs=1,
        concurrency=2,
    )


def test_a_real_server_answers_and_counts_tokens(
    server_url: str, chat_model: Path, tmp_path: Path
) -> None:
    async def run() -> tuple[list[str], int, int]:
        async with ExpertClient(expert(server_url, chat_model, tmp_path)) as client:
            messages = [{"role": "user", "content": "What is 2+2?"}]
            answers = [await client.ask(messages, "test.1") for _ in range(2)]
            return answers, client.usage.requests, client.usage.prompt_tokens

    answers, requests, prompt_tokens = asyncio.run(run())
    assert "4" in answers[0]
    assert answers[0] == answers[1]
    assert (requests, prompt_tokens) == (1, 16)


def test_labelling_with_a_model_too_small_to_judge_finishes_and_reports_it(
    server_url: str, chat_model: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "traces.jsonl", tmp_path / "out.jsonl"
    row = {"question": "3 + 2?", "steps": ["3 + 2 = 5", "Done."], "answer": "5"}
    source.write_text(json.dumps(row) + "\n")
    config = LabelConfig.model_validate(
        {
            "steps": {"components": ["quality"], "quality": "llm"},
            "trajectory": {"kind": "template", "num_answers": 2, "max_answer_tokens": 24},
            "expert": expert(server_url, chat_model, tmp_path).model_dump(),
        }
    )
    summary = label_file(str(source), out, config)
    labelled = list(read_rewarded(out))
    assert (summary.num_labelled, summary.stopped, len(labelled)) == (1, None, 1)
    for row in labelled:  # either an answer was used, or an error says why not
        judged = None not in row.components["quality"]
        assert judged != any(error.startswith("quality: ") for error in row.errors)
        rewarded = row.trajectory_reward is not None
        assert rewarded != any(error.startswith("trajectory reward") for error in row.errors)
    asked = summary.usage["expert"]
    assert 2 <= asked.requests - asked.retries <= 4  # a busy machine makes it retry
    assert asked.answer_tokens > 0


def test_a_real_server_proposes(server_url: str, chat_model: Path) -> None:
    def prompt(question: str, so_far: str) -> str:
        return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{so_far}"

    ends: Callable[[str], bool] = lambda step: "42" in step  # noqa: E731
    proposer = CompletionProposer(
        server_url,
        str(chat_model),
        step_format=StepFormat(prompt, separator="\n", is_final=ends),
        max_step_tokens=24,
        seed=1,
    )
    budget = Budget(max_depth=3)
    with fake_scorer() as scorer:
        result = Searcher(scorer, proposer, BestOfN(2), budget=budget).search("What is 6 * 7?")
    steps = [node for node in result.tree.nodes[1:] if node.step]
    assert steps
    assert all("\n" not in node.step for node in steps)
    assert 2 <= result.spent.num_tokens <= 24 * result.spent.num_steps
    assert result.num_failed == 0
