"""Chats in rows: messages with a role and content, as data sets spell them.

Knows messages; ``formats`` decides what their texts mean.
"""

from __future__ import annotations

from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError

CHAT_FIELDS = ("messages", "conversations", "conversation")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def chat_of(fields: dict[str, Any]) -> list[Any] | None:
    """The messages of a row that is a chat."""
    return next((fields[name] for name in CHAT_FIELDS if isinstance(fields.get(name), list)), None)


def role_of(message: dict[str, Any]) -> str:
    """``user``, ``assistant``, or whatever other role a chat message has."""
    name = str(message.get("role", message.get("from"))).lower()
    return _ROLES.get(name, name)


def content_of(message: dict[str, Any]) -> Any:
    """What a chat message says."""
    return message.get("content", message.get("value"))


def last_turn(messages: list[Any]) -> tuple[str, Any, str]:
    """Question, thinking and answer: the last user message and the last assistant message."""
    question = text = thinking = None
    for message in messages:
        if not isinstance(message, dict):
            raise InvalidTrajectoryError(
                f"a chat message is {type(message).__name__}, expected an object"
            )
        role, content = role_of(message), content_of(message)
        if role == "user":
            question = content
        elif role == "assistant":
            text, thinking = content, message.get("reasoning_content")
    if not isinstance(question, str) or not isinstance(text, str):
        raise InvalidTrajectoryError(
            "the chat needs a text from a user and an answer from an assistant"
        )
    return question, thinking, text


def question_of_chat(fields: dict[str, Any]) -> Any:
    """The last user message of the row's chat, answered or not."""
    asked = [
        content_of(message)
        for message in chat_of(fields) or ()
        if isinstance(message, dict) and role_of(message) == "user"
    ]
    return asked[-1] if asked else None
