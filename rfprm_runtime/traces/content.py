"""What one message thinks and says, in the shapes that servers and data sets give its content.

Knows OpenAI's, Anthropic's and Gemini's parts; knows no turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import is_nothing, shown

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Where a message, or a part of its content, keeps what the model thought."""
TEXT_FIELDS = ("content", "text", "value", "parts")
"""Where it keeps what the model said."""
# Parts that are no text: what a message shows, calls or got back.
_NO_TEXT = (
    "image",
    "audio",
    "video",
    "file",
    "document",
    "tool",
    "function",
    "redacted",
    "refusal",
)
_THOUGHTS = ("thinking", "reasoning", "thought")


class Said(NamedTuple):
    """What a model thought and what it said; either may be empty."""

    thinking: str
    text: str


def said_in_message(message: Mapping[str, Any], what: str) -> Said:
    """``what``: what an error calls the list of messages, or the field.

    Raises :class:`InvalidTrajectoryError` for content that cannot be read.
    """
    if str(message.get("type")).lower() in _THOUGHTS:
        return _said_in_part(message, what)
    content = first_of(message, TEXT_FIELDS)
    if isinstance(content, Mapping) and "parts" in content:  # Gemini
        content = content["parts"]
    if not (isinstance(content, (str, Mapping)) or is_nothing(content) or _parts(content)):
        raise _unreadable(content, what)
    said = [_said_in_part(part, what) for part in _parts(content)]
    # Servers write the same thought under two names, and again as a part.
    thought = next((found for name in THOUGHT_FIELDS if (found := _thought(message, name))), "")
    return Said(
        thought or joined(part.thinking for part in said),
        joined((part.text for part in said), "\n"),
    )


def first_of(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some fields that holds something: tables fill missing ones with nulls."""
    return next((fields[n] for n in names if not is_nothing(fields.get(n))), None)


def joined(texts: Iterable[str], between: str = "\n\n") -> str:
    return between.join(text for text in texts if text)


def _thought(message: Mapping[str, Any], name: str) -> str:
    found = message.get(name)
    if isinstance(found, str):
        return found
    # OpenAI's requests have settings under the same name: {"effort": "high"}.
    return joined(part for part in _parts(found) if isinstance(part, str))


def _parts(content: Any) -> Sequence[Any]:
    if isinstance(content, (str, Mapping)):
        return [content]
    listed = content.tolist() if hasattr(content, "tolist") else content
    return listed if isinstance(listed, Sequence) and not isinstance(listed, bytes) else []


def _said_in_part(part: Any, what: str) -> Said:
    if isinstance(part, str) or is_nothing(part):
        return Said("", part if isinstance(part, str) else "")
    if not isinstance(part, Mapping):
        raise _unreadable(part, what)
    kind = str(part.get("type") or "").lower().removeprefix("input_")
    if kind.startswith(_NO_TEXT):
        return Said("", "")
    text = first_of(part, TEXT_FIELDS)
    if part.get("thought") is True:  # Gemini marks a text as a thought
        return Said(_plain(text, what), "")
    thought = (
        first_of(part, (*THOUGHT_FIELDS, "summary")) if part.get("thought") is not False else None
    )
    if kind in _THOUGHTS:
        return Said(_plain(text if thought is None else thought, what), "")
    if thought is None and text is None and kind != "text":
        raise _unreadable(part, what)
    return Said(_plain(thought, what), _plain(text, what))


def _plain(value: Any, what: str) -> str:
    """A text, or a list of parts that each have one."""
    if isinstance(value, str) or is_nothing(value):
        return value if isinstance(value, str) else ""
    if value == []:  # a summary of nothing
        return ""
    found = [part.get("text") if isinstance(part, Mapping) else part for part in _parts(value)]
    texts = [text for text in found if isinstance(text, str)]
    if not texts or len(texts) < len(found):
        raise _unreadable(value, what)
    return joined(texts, "\n")


def _unreadable(content: Any, what: str) -> InvalidTrajectoryError:
    came = f"a part with {sorted(map(str, content))}" if isinstance(content, Mapping) else ""
    return InvalidTrajectoryError(
        f"the content of a message of the {what} is {came or shown(content)}, expected a text or "
        "a list of parts such as {'type': 'text', 'text': …}"
    )
