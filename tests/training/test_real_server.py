"""The expert against a real OpenAI-compatible server: ``transformers serve``, the base model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from rfprm_training.labelling.config import LabelConfig
from rfprm_training.labelling.expert.client import ExpertClient
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.label_file import label_file
from rfprm_training.rewarded import read_rewarded

pytestmark = pytest.mark.slow


def expert(url: str, chat_model: Path, folder: Path) -> ExpertConfig:
    return ExpertConfig(
        base_url=url,
        model=str(chat_model),
        cache=folder / "cache.sqlite",
        max_answer_tokens=48,
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
    rows = [
        {"question": f"{i} + 2?", "steps": [f"{i} + 2 = {i + 2}", "Done."], "answer": str(i + 2)}
        for i in range(2)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = LabelConfig.model_validate(
        {
            "steps": {"components": ["quality"], "quality": "llm"},
            "trajectory": {"kind": "template", "num_answers": 2, "max_answer_tokens": 24},
            "expert": expert(server_url, chat_model, tmp_path).model_dump(),
        }
    )
    summary = label_file(str(source), out, config)
    labelled = list(read_rewarded(out))
    assert (summary.num_labelled, summary.stopped, len(labelled)) == (2, None, 2)
    for row in labelled:  # either an answer was used, or an error says why not
        judged = None not in row.components["quality"]
        assert judged != any(error.startswith("quality: ") for error in row.errors)
        rewarded = row.trajectory_reward is not None
        assert rewarded != any(error.startswith("trajectory reward") for error in row.errors)
    asked = summary.usage["expert"]
    assert 4 <= asked.requests - asked.retries <= 8  # a busy machine makes it retry
    assert asked.answer_tokens > 0
