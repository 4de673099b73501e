"""Chats say the same in files as in the completions of RL stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rfprm_runtime import InvalidTrajectoryError, Trajectory
from rfprm_runtime.traces.chats import last_exchange, turns_of
from rfprm_runtime.traces.formats import trajectory_from_record
from rfprm_runtime.traces.prompts import question_of_prompt, text_of_completion

USER = {"role": "user", "content": "What is 3 * 4?"}
THOUGHT, ANSWER = "Four threes.\n\nThat is 12.", "It is 12."


def both_ways(*said: Any) -> Trajectory:
    """The trajectory of a chat, read as a row and as a prompt with a completion."""
    row = trajectory_from_record({"messages": [USER, *said]})
    completed = Trajectory.from_text(question_of_prompt([USER]), text_of_completion([*said]))
    assert (row.question, row.steps, row.response) == (
        completed.question,
        completed.steps,
        completed.response,
    )
    return row


@pytest.mark.parametrize(
    "said",
    [
        {"reasoning_content": THOUGHT, "content": ANSWER},
        {"reasoning": THOUGHT, "content": ANSWER},
        {"thinking": THOUGHT, "content": ANSWER},
        {"thought": THOUGHT, "content": ANSWER},
        {"reasoning": THOUGHT, "reasoning_content": THOUGHT, "content": ANSWER},
        {"reasoning": {"effort": "high"}, "reasoning_content": THOUGHT, "content": ANSWER},
        {"reasoning_content": None, "thinking": THOUGHT, "content": ANSWER},
        {"reasoning_content": float("nan"), "thinking": THOUGHT, "content": ANSWER},
        {"content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]},
        {
            "content": [
                {"type": "thinking", "thinking": THOUGHT, "text": None},
                {"type": "text", "thinking": None, "text": ANSWER},
            ]
        },
        {
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": THOUGHT}]},
                {"type": "output_text", "text": ANSWER},
            ]
        },
        {"content": [{"type": "redacted_thinking"}, {"text": ANSWER}], "thought": THOUGHT},
        {"content": f"<think>{THOUGHT}</think>\n\n{ANSWER}"},
    ],
)  # fmt: skip
def test_thinking_is_found_wherever_a_message_keeps_it(said: dict[str, Any]) -> None:
    found = both_ways({"role": "assistant", **said})
    assert found.steps == ("Four threes.", "That is 12.")
    assert found.response == (ANSWER,)


@pytest.mark.parametrize(
    "content",
    [
        ANSWER,
        [ANSWER],
        {"type": "text", "text": ANSWER},
        np.array([{"type": "text", "text": ANSWER}], dtype=object),
        [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": ANSWER}],
        [{"type": "input_image", "image_url": "x"}, {"type": "output_text", "text": ANSWER}],
        [None, {"type": "tool_use", "name": "sum", "input": {}}, {"type": "text", "text": ANSWER}],
    ],
)
def test_content_is_a_text_or_parts(content: Any) -> None:
    assert both_ways({"role": "assistant", "content": content}).steps == (ANSWER,)


@pytest.mark.parametrize(
    "content",
    [7, b"12", [7], [b"12"], [{"type": "text", "text": 7}], [{"type": "text", "text": [7]}],
     [{"type": "hologram"}], [{"beam": 1}]],
)  # fmt: skip
def test_content_that_says_nothing_readable_is_refused(content: Any) -> None:
    message = {"role": "assistant", "content": content}
    with pytest.raises(InvalidTrajectoryError, match="content of a message of the completion"):
        text_of_completion([message])
    with pytest.raises(InvalidTrajectoryError, match="content of a message of the chat"):
        trajectory_from_record({"messages": [USER, message]})


@pytest.mark.parametrize("messages", [7, "hello", b"x", [7], [None], ["hello"], {"role": "user"}])
def test_what_is_no_list_of_messages_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidTrajectoryError, match="chat"):
        turns_of(messages)


def test_all_that_the_assistant_says_after_the_question_is_its_answer() -> None:
    found = both_ways(
        {"role": "assistant", "content": "Let me compute.", "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": ANSWER},
    )
    assert found.steps == ("Let me compute.", ANSWER)


def test_what_comes_before_the_last_thought_is_thinking() -> None:
    found = both_ways(
        {"role": "assistant", "reasoning": "I need a tool.", "content": "I call it."},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "reasoning": "It says 12.", "content": ANSWER},
    )
    assert found.steps == ("I need a tool.", "I call it.", "It says 12.")
    assert found.response == (ANSWER,)


def test_the_question_is_the_one_that_was_answered() -> None:
    turns = turns_of(
        [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "second"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "third"},
        ]
    )
    assert last_exchange(turns) == ("second", "", "two")
    assert last_exchange(turns[-1:]) == ("", "", "")
    assert last_exchange(turns[1:2]) == ("", "", "one")


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ({"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}),
        ({"from": "user", "value": "q"}, {"from": "model", "value": "a"}),
        (
            {"role": None, "content": None, "from": "human", "value": "q"},
            {"role": None, "content": None, "from": "gpt", "value": "a"},
        ),
        ({"role": "User", "content": "q"}, {"role": "Assistant", "content": "a"}),
    ],
)
def test_roles_as_data_sets_spell_them(asked: dict[str, Any], answered: dict[str, Any]) -> None:
    assert last_exchange(turns_of([asked, answered])) == ("q", "", "a")


@pytest.mark.parametrize(
    "messages", [[USER], [{"role": "assistant", "content": "a"}], [USER, {"role": "assistant"}]]
)
def test_half_a_chat_is_refused(messages: list[Any]) -> None:
    with pytest.raises(InvalidTrajectoryError, match="needs a text from a user and an answer"):
        trajectory_from_record({"messages": messages})


def test_an_answer_whose_question_stands_beside_the_chat() -> None:
    row = {"problem": "q", "messages": [{"role": "assistant", "content": "a"}]}
    assert trajectory_from_record(row).question == "q"
