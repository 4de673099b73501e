"""A trace as a chat to fine-tune on: the question, then what the model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfprm_runtime.traces.chats import CHAT_FIELDS, turns_of
from rfprm_runtime.traces.formats import Parts
from rfprm_runtime.traces.record import Record
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


def messages_of(trace: Record, trajectory: Trajectory) -> list[dict[str, str]]:
    """The question as the user's message, the trace as the assistant's.

    A text stays as it was written, and a chat keeps its system prompt. If steps or thinking have a
    field separate from the response, the thinking goes into ``<think>`` tags.
    """
    answer = {"role": "assistant", "content": _written(trace, trajectory)}
    question = {"role": "user", "content": trajectory.question}
    return [*_system_messages(trace.present), question, answer]


def renamed_for_trl(names: Sequence[str]) -> dict[str, str]:
    """New names for the fields that would keep SFTTrainer from reading ``messages``."""
    return {name: ORIGINAL_PREFIX + name for name in names if name in TAKEN_BY_TRL}


def _written(trace: Record, trajectory: Trajectory) -> str:
    written = trace.parts.written if isinstance(trace.parts, Parts) else None
    if written is not None and not written.thinking:
        return written.text
    return _with_tags("\n\n".join(trajectory.steps), "\n\n".join(trajectory.response))


def _with_tags(thinking: str, response: str) -> str:
    return f"<think>\n{thinking}\n</think>\n\n{response}" if response else thinking


def _system_messages(fields: dict[str, Any]) -> list[dict[str, str]]:
    chats = [fields[name] for name in CHAT_FIELDS if isinstance(fields.get(name), list)]
    turns = turns_of(chats[0] if chats else [])
    return [{"role": "system", "content": turn.text} for turn in turns if turn.role == "system"]
