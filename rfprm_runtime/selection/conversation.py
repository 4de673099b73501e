"""A trace as a chat to fine-tune on: the question, then what the model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfprm_runtime.traces.chats import chat_of, content_of, role_of
from rfprm_runtime.traces.formats import THINKING_FIELDS, text_of
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
    has_parts = "steps" in fields or any(fields.get(name) for name in THINKING_FIELDS)
    chat = chat_of(fields)
    if "steps" not in fields and chat is not None:
        answer = [item for item in chat if role_of(item) == "assistant"][-1]
        has_parts = bool(answer.get("reasoning_content"))
        text = content_of(answer)
    else:
        text = text_of(fields)
    if has_parts or not isinstance(text, str):
        return _with_tags("\n\n".join(trajectory.steps), "\n\n".join(trajectory.response))
    return text


def _with_tags(thinking: str, response: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n{response}" if response else thinking


def _system_messages(fields: dict[str, Any]) -> list[dict[str, str]]:
    messages = [message for message in chat_of(fields) or () if isinstance(message, dict)]
    texts = [content_of(message) for message in messages if role_of(message) == "system"]
    return [{"role": "system", "content": text} for text in texts if isinstance(text, str)]
