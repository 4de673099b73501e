"""Questions from prompts, traces from completions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rfprm_runtime import InvalidTrajectoryError
from rfprm_runtime.traces.formats import trajectory_from_record
from rfprm_runtime.traces.prompts import (
    question_of_prompt,
    response_after,
    text_after,
    text_of_completion,
)
from rfprm_runtime.traces.templates import without_end_tokens


@pytest.mark.parametrize(
    "prompt",
    [
        "What is 2 + 2?",
        "  What is 2 + 2?\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<bos><start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n<start_of_turn>model\n",
        "<s>[INST] What is 2 + 2? [/INST]",
        "<｜begin▁of▁sentence｜><｜User｜>What is 2 + 2?<｜Assistant｜><think>\n",
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}],
        [
            {"role": "user", "content": "What is 1 + 1?"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": [{"type": "text", "text": "What is 2 + 2?"}]},
        ],
        np.array([{"role": "user", "content": "What is 2 + 2?"}], dtype=object),
    ],
)
def test_the_question_is_what_the_user_said_last(prompt: Any) -> None:
    assert question_of_prompt(prompt) == "What is 2 + 2?"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([{"role": "system", "content": "x"}], "no user message"), (7, "prompt is int")],
)
def test_a_prompt_without_a_question_is_refused(prompt: Any, message: str) -> None:
    with pytest.raises(InvalidTrajectoryError, match=message):
        question_of_prompt(prompt)


def test_a_trace_is_what_the_assistant_said() -> None:
    assert text_of_completion("so 4") == "so 4"
    assert text_of_completion([{"role": "assistant", "content": "so 4"}]) == "so 4"
    assert text_of_completion([{"role": "assistant", "content": None}]) == ""
    messages = [
        {"role": "assistant", "reasoning_content": "2 + 2 = 4", "content": "4"},
        {"role": "tool", "content": "not said by the policy"},
        {"role": "assistant", "content": "It is 4."},
    ]
    assert text_of_completion(messages) == "<think>2 + 2 = 4</think>\n\n4\n\nIt is 4."


def test_a_response_is_what_follows_the_prompt() -> None:
    assert response_after("<|im_start|>Q A<|im_end|>\n<|endoftext|>", "<|im_start|>Q ") == "A"
    assert without_end_tokens("a <|im_end|> b</s>") == "a <|im_end|> b"
    with pytest.raises(InvalidTrajectoryError, match="not with its prompt 'What"):
        response_after("is 2? 4", "What is 2? ")


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\n",
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>\n"}],
    ],
)
def test_a_thought_that_the_prompt_opens_is_cut_off_without_a_closing_tag(prompt: Any) -> None:
    assert text_after(prompt, "3 * 4 = 12") == "<think>3 * 4 = 12"
    assert (
        text_after(prompt, [{"role": "assistant", "content": "a</think>b"}]) == "<think>a</think>b"
    )
    row = trajectory_from_record({"prompt": prompt, "completion": "a\n\nb</think>c"})
    assert (row.question, row.steps, row.response) == ("q", ("a", "b"), ("c",))


def test_a_completion_that_cannot_be_read_becomes_an_error_in_its_place() -> None:
    for completion in (None, 7, [7], [{"role": "assistant", "content": 7}]):
        assert isinstance(text_after("q", completion), InvalidTrajectoryError)
    assert text_after(None, "a") == "a"
