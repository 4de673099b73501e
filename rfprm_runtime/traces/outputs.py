"""What a model wrote, in whatever a row keeps it: a text, a message, messages, parts, a response of
a server.

Knows the objects that vLLM, OpenAI, Anthropic and Gemini return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.traces.chats import last_exchange, turns_of
from rfprm_runtime.traces.content import TEXT_FIELDS, THOUGHT_FIELDS, Said, said_in_message
from rfprm_runtime.traces.present import are_objects
from rfprm_runtime.traces.templates import turns_in, without_end_tokens

# Where an object of a server keeps its outputs, and where one of those keeps its message.
_LISTS = ("choices", "outputs", "candidates", "output", "generations")
_INNER = ("message", "body", "response")
_MESSAGE_FIELDS = {"role", *TEXT_FIELDS, *THOUGHT_FIELDS}


def said_in(value: Any, what: str) -> Said:
    """What a model thought and said in ``value``, the field ``what``.

    Raises :class:`InvalidTrajectoryError` if it holds nothing of the kind, or several outputs.
    """
    if isinstance(value, str):
        return _said_in_text(value)
    if isinstance(value, Mapping):
        return _said_in_object(value, what)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return _said_in_list(value, what)
    raise InvalidTrajectoryError(
        f"{what!r} is {shown(value)}, expected a text, a message or a list of messages"
    )


def is_output(value: Any) -> bool:
    """Whether ``value`` is an object that can be one output of a model."""
    return isinstance(value, Mapping) and bool(
        _MESSAGE_FIELDS & value.keys()
        or any(isinstance(value.get(name), Mapping) for name in _INNER)
        or any(are_objects(value.get(name)) for name in _LISTS)
    )


def _said_in_text(text: str) -> Said:
    """A text as it is, or the assistant's last words in a rendered chat."""
    turns = turns_in(text)
    if any(turn.role == "assistant" for turn in turns):
        exchange = last_exchange(turns)
        return Said(exchange.thinking, exchange.text)
    return Said("", without_end_tokens(text))


def _said_in_object(value: Mapping[str, Any], what: str) -> Said:
    for name in _INNER:
        if isinstance(value.get(name), Mapping):
            return _said_in_object(value[name], f"{what}.{name}")
    for name in _LISTS:
        if are_objects(value.get(name)):
            return _said_in_list(value[name], f"{what}.{name}")
    if not _MESSAGE_FIELDS & value.keys():
        raise InvalidTrajectoryError(
            f"{what!r} is an object with {sorted(map(str, value))}, expected one with 'content', "
            "'text' or 'choices'"
        )
    said = said_in_message(value, what)
    return Said(said.thinking, without_end_tokens(said.text))


def _said_in_list(values: Sequence[Any], what: str) -> Said:
    if values and all(isinstance(item, Mapping) for item in values):
        if any(_is_message(item) for item in values):
            turns = turns_of(values, what)
            exchange = last_exchange(turns)
            return Said(exchange.thinking, without_end_tokens(exchange.text))
        if all("type" in item for item in values):
            return _said_in_object({"content": values}, what)
    if len(values) != 1:
        raise InvalidTrajectoryError(
            f"{what!r} holds {len(values)} outputs, expected one; rfprm score and rfprm select "
            "score each of them"
        )
    return said_in(values[0], what)


def _is_message(item: Mapping[str, Any]) -> bool:
    return item.get("role") is not None or item.get("from") is not None
