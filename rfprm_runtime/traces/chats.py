"""Chats: messages with a role and content, as data sets, servers and RL stacks spell them.

Knows messages; ``formats`` and ``prompts`` decide what their texts mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.traces.content import Said, first_of, joined, said_in_message

CHAT_FIELDS = ("messages", "conversations", "conversation")
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


class Turn(NamedTuple):
    """One message. Missing text and thinking are empty."""

    role: str
    """``user``, ``assistant``, ``system``, or whatever other role it has."""
    text: str
    thinking: str


class Exchange(NamedTuple):
    """A question and the answer to it; either may be empty."""

    question: str
    thinking: str
    text: str


def turns_of(messages: Any, what: str = "chat") -> list[Turn]:
    """The turns of a list of messages. ``what``: what an error calls the list.

    Raises :class:`InvalidTrajectoryError` for anything else, and for content that cannot be read.
    """
    # verl keeps messages in numpy arrays, which are not Sequences.
    listed = messages.tolist() if hasattr(messages, "tolist") else messages
    if isinstance(listed, (str, bytes)) or not isinstance(listed, Sequence):
        raise InvalidTrajectoryError(
            f"the {what} is {type(messages).__name__}, expected a string or a list of messages "
            "with 'role' and 'content'"
        )
    return [_turn(message, what) for message in listed]


def last_exchange(turns: Sequence[Turn]) -> Exchange:
    """The last answer of the assistant, and the question that it answers.

    The answer is all that the assistant says up to the next user message, calls of tools between;
    a question that nobody answered is no exchange.
    """
    ends = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    asked = [i for i, turn in enumerate(turns) if turn.role == "user" and ends and i < ends[-1]]
    question = turns[asked[-1]].text if asked else ""
    replies = takewhile(lambda turn: turn.role != "user", turns[asked[-1] + 1 if asked else 0 :])
    return Exchange(question, *answer_in(replies))


def answer_in(turns: Iterable[Turn]) -> Said:
    """What the assistant thinks and says in ``turns``.

    What it says before its last thought leads to the answer and counts as thinking too.
    """
    said = [turn for turn in turns if turn.role == "assistant"]
    last = max((index for index, turn in enumerate(said) if turn.thinking), default=None)
    if last is None:
        return Said("", joined(turn.text for turn in said))
    before = [text for turn in said[:last] for text in (turn.thinking, turn.text)]
    thinking = joined([*before, said[last].thinking])
    return Said(thinking, joined(turn.text for turn in said[last:]))


def half_a_chat() -> InvalidTrajectoryError:
    """Why a chat without a question or without an answer holds no trace."""
    return InvalidTrajectoryError(
        "the chat needs a text from a user and an answer from an assistant"
    )


def last_question(turns: Iterable[Turn]) -> str | None:
    """What the user said last, answered or not; None if the user said nothing."""
    asked = [turn.text for turn in turns if turn.role == "user"]
    return asked[-1] if asked else None


def _turn(message: Any, what: str) -> Turn:
    if not isinstance(message, Mapping):
        raise InvalidTrajectoryError(
            f"a message of the {what} is {shown(message)}, expected an object with 'role' and "
            "'content'"
        )
    said = said_in_message(message, what)
    return Turn(_role(message), said.text, said.thinking)


def role_named(name: str) -> str:
    """``user``, ``assistant`` or another role, whatever a data set calls it."""
    return _ROLES.get(name.lower(), name.lower())


def _role(message: Mapping[str, Any]) -> str:
    role = first_of(message, ("role", "from", "author", "speaker"))
    # OpenAI's responses list what was thought beside the messages.
    if role is None and message.get("type") == "reasoning":
        return "assistant"
    return role_named(str(first_of(role, ("role",)) if isinstance(role, Mapping) else role))
