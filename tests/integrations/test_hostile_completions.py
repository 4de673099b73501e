"""No completion, however broken, stops a training run or keeps it waiting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from attacks.completions import reward_hostile
from rfprm_runtime import InvalidTrajectoryError
from rfprm_runtime.traces.prompts import question_of_prompt, text_of_completion


def test_hostile_completions_get_a_reward_or_none_from_every_adapter(tiny_artifact: Path) -> None:
    """``python tests/attacks/completions.py`` tries 10,000, of up to 200,000 characters."""
    pytest.importorskip("torch")
    scored = reward_hostile(tiny_artifact, count=200, seed=0, length=10_000)
    assert all(20 < number < 150 for number in scored.values())


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "<s> "])
def test_a_long_blank_prompt_is_read_in_linear_time(blank: str) -> None:
    began = time.process_time()
    assert question_of_prompt(blank * 100_000).strip() == (blank * 100_000).strip()
    assert time.process_time() - began < 5.0


def test_missing_numbers_and_whole_numbers_too_large_are_no_text() -> None:
    nan = float("nan")
    parts = [{"type": "text", "text": nan}, nan, {"type": "text", "text": "It is 42."}]
    assert text_of_completion([{"role": "assistant", "content": parts}]) == "It is 42."
    with pytest.raises(InvalidTrajectoryError, match="expected a text or a list of parts"):
        text_of_completion([{"role": "assistant", "content": 10**400}])
