"""Chats: messages with a role and content, as data sets, servers and RL stacks spell them.

Knows messages; ``formats`` and ``prompts`` decide what their texts mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import is_nothing, shown

CHAT_FIELDS = ("messages", "conversations", "conversation")
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Where a message, or a part of its content, keeps what the model thought."""
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
# Parts of content that are no text: what a message shows, calls or got back.
_NO_TEXT = ("image", "audio", "video", "file", "tool", "function", "redacted", "refusal")


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


def chat_of(fields: Mapping[str, Any]) -> list[Any] | None:
    """The messages of a row that is a chat."""
    return next((fields[name] for name in CHAT_FIELDS if isinstance(fields.get(name), list)), None)


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


def answer_in(turns: Iterable[Turn]) -> tuple[str, str]:
    """Thinking and text of what the assistant says in ``turns``.

    What it says before its last thought leads to the answer and counts as thinking too.
    """
    said = [turn for turn in turns if turn.role == "assistant"]
    last = max((index for index, turn in enumerate(said) if turn.thinking), default=None)
    if last is None:
        return "", _joined(turn.text for turn in said)
    before = [text for turn in said[:last] for text in (turn.thinking, turn.text)]
    thinking = _joined([*before, said[last].thinking])
    return thinking, _joined(turn.text for turn in said[last:])


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
    thoughts, texts = _said(_first(message, ("content", "value")), what)
    # Servers write the same thought under two names, and again as a part.
    thought = next((found for name in THOUGHT_FIELDS if (found := _thought(message, name))), "")
    return Turn(_role(message), _joined(texts, "\n"), thought or _joined(thoughts))


def _role(message: Mapping[str, Any]) -> str:
    name = str(_first(message, ("role", "from"))).lower()
    return _ROLES.get(name, name)


def _first(message: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some fields that holds something: tables fill missing ones with nulls."""
    return next((message[n] for n in names if not is_nothing(message.get(n))), None)


def _thought(message: Mapping[str, Any], name: str) -> str:
    found = message.get(name)
    if isinstance(found, str):
        return found
    # OpenAI's requests have settings under the same name: {"effort": "high"}.
    return _joined(part for part in _parts(found) if isinstance(part, str))


def _said(content: Any, what: str) -> tuple[list[str], list[str]]:
    """The thoughts and the texts in a message's content."""
    thoughts: list[str] = []
    texts: list[str] = []
    if not (isinstance(content, (str, Mapping)) or is_nothing(content) or _parts(content)):
        raise _unreadable(content, what)
    for part in _parts(content):
        thought, text = _thought_and_text(part, what)
        thoughts.append(thought)
        texts.append(text)
    return thoughts, texts


def _parts(content: Any) -> Sequence[Any]:
    if isinstance(content, (str, Mapping)):
        return [content]
    listed = content.tolist() if hasattr(content, "tolist") else content
    return listed if isinstance(listed, Sequence) and not isinstance(listed, bytes) else []


def _thought_and_text(part: Any, what: str) -> tuple[str, str]:
    """What a part of a message's content thinks and says; images and calls do neither."""
    if isinstance(part, str) or is_nothing(part):
        return "", part or ""
    if not isinstance(part, Mapping):
        raise _unreadable(part, what)
    kind = str(_first(part, ("type",)) or "").lower()
    if kind.startswith(_NO_TEXT) or kind.removeprefix("input_").startswith(_NO_TEXT):
        return "", ""
    thought = _first(part, (*THOUGHT_FIELDS, "summary"))
    text = _first(part, ("text", "content", "value"))
    if kind in ("thinking", "reasoning", "thought"):
        return _plain(thought if thought is not None else text, what), ""
    if thought is None and text is None and kind != "text":
        raise _unreadable(part, what)
    return _plain(thought, what), _plain(text, what)


def _plain(value: Any, what: str) -> str:
    """A text, or a list of parts that each have one."""
    if isinstance(value, str) or is_nothing(value):
        return value or ""
    found = [part.get("text") if isinstance(part, Mapping) else part for part in _parts(value)]
    texts = [text for text in found if isinstance(text, str)]
    if not texts or len(texts) < len(found):
        raise _unreadable(value, what)
    return _joined(texts, "\n")


def _unreadable(content: Any, what: str) -> InvalidTrajectoryError:
    came = f"a part with {sorted(map(str, content))}" if isinstance(content, Mapping) else ""
    return InvalidTrajectoryError(
        f"the content of a message of the {what} is {came or shown(content)}, expected a text or "
        "a list of parts such as {'type': 'text', 'text': …}"
    )


def _joined(texts: Iterable[str], between: str = "\n\n") -> str:
    return between.join(text for text in texts if text)
