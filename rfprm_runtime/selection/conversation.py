"""A trace as a chat to fine-tune on: the question, then what the model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfprm_runtime.traces.chats import chat_of, turns_of
from rfprm_runtime.traces.formats import THINKING_FIELDS, exchange_of, text_of
from rfprm_runtime.types import Trajectory

MESSAGES_FIELD = "messages"
# If a row has these, TRL's SFTTrainer reads them instead of `messages`, or as well.
TAKEN_BY_TRL = (
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "conversations",
    "messages",
    "input_ids",
    "labels",
)
ORIGINAL_PREFIX = "original_"


def messages_of(
    fields: dict[str, Any], trajectory: Trajectory, *, row: dict[str, Any]
) -> list[dict[str, str]]:
    """The question as the user's message, the trace as the assistant's.

    A text stays as it was written, and a chat keeps its system prompt. If steps or thinking have a
    field separate from the response, the thinking goes into ``<think>`` tags. ``fields`` are those
    of one generation, taken from ``row``.
    """
    answer = {"role": "assistant", "content": _written(fields, trajectory)}
    question = {"role": "user", "content": trajectory.question}
    return [*_system_messages(row), question, answer]


def renamed_for_trl(names: Sequence[str]) -> dict[str, str]:
    """New names for the fields that would keep SFTTrainer from reading ``messages``."""
    return {name: ORIGINAL_PREFIX + name for name in names if name in TAKEN_BY_TRL}


def _written(fields: dict[str, Any], trajectory: Trajectory) -> str:
    text, has_parts = _text_and_parts(fields)
    if has_parts or text is None:
        return _with_tags("\n\n".join(trajectory.steps), "\n\n".join(trajectory.response))
    return text


def _text_and_parts(fields: dict[str, Any]) -> tuple[str | None, bool]:
    """The model's output as it was written, and whether its thinking stands apart from it."""
    if "steps" not in fields and chat_of(fields) is not None:
        exchange = exchange_of(fields)
        return exchange.text, bool(exchange.thinking)
    has_parts = "steps" in fields or any(fields.get(name) for name in THINKING_FIELDS)
    return text_of(fields), has_parts


def _with_tags(thinking: str, response: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n{response}" if response else thinking


def _system_messages(fields: dict[str, Any]) -> list[dict[str, str]]:
    turns = turns_of(chat_of(fields) or [])
    return [{"role": "system", "content": turn.text} for turn in turns if turn.role == "system"]
