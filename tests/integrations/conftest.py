"""Fixtures for the adapters: a real artifact with made-up scores, and a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import Scorer, Trajectory
from tiny_models import byte_tokenizer


@pytest.fixture
def artifact(tiny_artifact: Path) -> str:
    """An artifact for ``backend="fake"``: real prompts and files, scores without a model."""
    return str(tiny_artifact)


@pytest.fixture
def expected(tiny_artifact: Path) -> Any:
    """A function that returns the scorer's own reward for a question and a completion (Eq. 11)."""
    with Scorer.load(tiny_artifact, backend="fake") as scorer:
        yield lambda q, text: scorer.score_batch([Trajectory.from_text(q, text)])[0].reward


@pytest.fixture
def policy_tokenizer() -> Any:
    """A transformers tokenizer with ChatML's tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=(
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
            "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
    )
