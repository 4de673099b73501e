"""The question of a row: in a field of its own, in a chat, or before the output in one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.chats import Turn, half_a_chat, last_exchange, last_question, turns_of
from rfprm_runtime.traces.choosing import FieldNames, only_one
from rfprm_runtime.traces.layouts import chat_in
from rfprm_runtime.traces.names import QUESTION_FIELDS
from rfprm_runtime.traces.present import are_objects, first_empty
from rfprm_runtime.traces.prompts import question_of_prompt
from rfprm_runtime.traces.templates import turns_in


def read_question(
    row: Mapping[str, Any], fields: dict[str, Any], names: FieldNames, text: str | None = None
) -> tuple[Any, dict[str, str]]:
    """The question, and the field it was read from. ``fields``: those of ``row``, unwrapped;
    ``text``: the one that holds the output.

    Raises :class:`InvalidTrajectoryError` if there is none.
    """
    given = names.given("question", fields)
    if given is not None:
        return _asked(fields[given]), {"question": given}
    chat = chat_in(fields)
    if text is not None and text == chat:
        question = last_exchange(turns_of(fields[chat])).question
        if question:
            return question, {"question": chat}
    for rank in QUESTION_FIELDS:
        if {"instruction", "input"} <= fields.keys() & set(rank):
            both = "\n\n".join(str(fields[name]) for name in ("instruction", "input"))
            return both, {"question": "instruction and input"}
        path = only_one(fields, rank, "question")
        if path is not None and path != text:
            return _asked(fields[path]), {"question": path}
    return _question_elsewhere(fields, text, row)


def question_key(question: str) -> str:
    """The same for questions that differ only in white space."""
    return " ".join(question.split())


def _question_elsewhere(
    fields: dict[str, Any], text: str | None, row: Mapping[str, Any]
) -> tuple[str, dict[str, str]]:
    """The question in a chat that asks, or in what the output was read from."""
    chat = chat_in(fields)
    asked = None if chat is None or chat == text else last_question(turns_of(fields[chat]))
    if chat is not None and asked:
        return asked, {"question": chat}
    turns = _turns(fields.get(text or ""))
    question = last_exchange(turns).question
    if text is not None and question:
        return question, {"question": text}
    raise _no_question(fields, row, is_chat=chat is not None)


def _turns(value: Any) -> list[Turn]:
    """The turns of a rendered chat, or of a list of messages."""
    if isinstance(value, str):
        return turns_in(value)
    return turns_of(value) if are_objects(value) else []


def _asked(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    return question_of_prompt(value) if isinstance(value, (str, list, dict)) else value


def _no_question(
    fields: Mapping[str, Any], row: Mapping[str, Any], *, is_chat: bool
) -> InvalidTrajectoryError:
    empty = first_empty(row, {name for rank in QUESTION_FIELDS for name in rank})
    if empty is not None:
        return InvalidTrajectoryError(
            f"its {empty!r} is blank; a step can only be judged against a question"
        )
    if is_chat:
        return half_a_chat()
    expected = " or ".join(repr(name) for name in QUESTION_FIELDS[0])
    return InvalidTrajectoryError(
        f"no question: expected a field {expected}, got {sorted(fields)}; name another with "
        "--question-field"
    )
