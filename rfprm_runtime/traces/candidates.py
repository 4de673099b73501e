"""Rows of several outputs to one question, and the row that each of them is by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.chats import CHAT_FIELDS, last_question, turns_of
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.layouts import candidates_in, named, unwrapped
from rfprm_runtime.traces.names import (
    CANDIDATE_FIELDS,
    OUTPUT_FIELDS,
    QUESTION_FIELDS,
    RENDERED_FIELDS,
    THINKING_FIELDS,
)

TRACE_FIELDS = {
    "steps", *CHAT_FIELDS, *THINKING_FIELDS, *OUTPUT_FIELDS, *RENDERED_FIELDS, *CANDIDATE_FIELDS
}  # fmt: skip
"""Fields that hold a trace; a ``solution`` beside several outputs is the reference."""


class Candidates:
    """The outputs of a row, sorted out once: what belongs to one of them, and what to all.

    A list as long as the outputs holds one value for each. Other fields that could be read as the
    trace (a chat, steps, one thinking) belong to none of the outputs and are left out, but for a
    chat that alone holds the question.
    """

    def __init__(self, fields: Mapping[str, Any], path: str, outputs: list[Any]) -> None:
        self.path = path
        """The field that lists them."""
        self.outputs = outputs
        self._of_one: dict[str, list[Any]] = {}
        self._of_all: dict[str, Any] = {}
        asked = any(named(fields, name) for rank in QUESTION_FIELDS for name in rank)
        left_out = TRACE_FIELDS if asked else TRACE_FIELDS - {*CHAT_FIELDS}
        for name, value in fields.items():
            is_list = isinstance(value, list) and name not in CHAT_FIELDS
            if is_list and len(value) == len(outputs):
                self._of_one[name] = value
            elif name not in left_out:
                self._of_all[name] = value if is_list else _asked_only(name, value)

    def row(self, index: int) -> dict[str, Any]:
        """One of the outputs as a row of its own, under the same name."""
        own = {name: values[index] for name, values in self._of_one.items()}
        return {**self._of_all, **own, self.path: self.outputs[index]}


def _asked_only(name: str, value: Any) -> Any:
    """A chat cut to the question that it ends with: thousands of outputs may share a long one."""
    if name not in CHAT_FIELDS or not isinstance(value, list):
        return value
    try:
        question = last_question(turns_of(value))
    except InvalidTrajectoryError:  # each of the traces will say so
        return value
    return value if question is None else [{"role": "user", "content": question}]


def candidates_of(row: Mapping[str, Any], names: FieldNames) -> Candidates | None:
    """The outputs of a row that holds several; it may list just one."""
    fields = unwrapped(row)
    if names.steps is not None:
        return None
    if names.text is None:
        found = candidates_in(fields)
        return None if found is None else Candidates(fields, *found)
    path = named(fields, names.text)
    outputs = fields[path] if path is not None else None
    if path is None or not isinstance(outputs, list) or len(outputs) < 2:
        return None
    return (
        Candidates(fields, path, outputs)
        if all(isinstance(item, str) for item in outputs)
        else None
    )


def several_outputs(candidates: Candidates) -> InvalidTrajectoryError:
    """Why a row of several outputs is not one trajectory."""
    return InvalidTrajectoryError(
        f"has {len(candidates.outputs)} generations in {candidates.path!r}; rfprm score and rfprm "
        "select score each of them, in Python put each into a row of its own"
    )
