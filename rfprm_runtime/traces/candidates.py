"""Rows of several outputs to one question, and the row that each of them is by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.chats import CHAT_FIELDS
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


class Candidates(NamedTuple):
    """Several outputs to one question."""

    path: str
    """The field that lists them."""
    outputs: list[Any]


def candidates_of(row: Mapping[str, Any], names: FieldNames) -> Candidates | None:
    """The outputs of a row that holds several; it may list just one."""
    fields = unwrapped(row)
    if names.steps is not None:
        return None
    if names.text is None:
        found = candidates_in(fields)
        return None if found is None else Candidates(*found)
    path = named(fields, names.text)
    outputs = fields[path] if path is not None else None
    if path is None or not isinstance(outputs, list) or len(outputs) < 2:
        return None
    return Candidates(path, outputs) if all(isinstance(item, str) for item in outputs) else None


def fields_of_output(row: Mapping[str, Any], candidates: Candidates, index: int) -> dict[str, Any]:
    """A row of several outputs as a row of one of them, under the same name.

    A list as long as the outputs holds one value for each. Other fields that could be read as the
    trace (a chat, steps, one thinking) belong to none of the outputs and are left out, but for a
    chat that alone holds the question.
    """
    fields, count = unwrapped(row), len(candidates.outputs)
    asked = any(named(fields, name) for rank in QUESTION_FIELDS for name in rank)
    kept = set() if asked else set(CHAT_FIELDS)
    one = {}
    for name, value in fields.items():
        is_own = isinstance(value, list) and len(value) == count
        if is_own and name not in CHAT_FIELDS:
            one[name] = value[index]
        elif name not in TRACE_FIELDS or name in kept:
            one[name] = value
    return {**one, candidates.path: candidates.outputs[index]}


def several_outputs(candidates: Candidates) -> InvalidTrajectoryError:
    """Why a row of several outputs is not one trajectory."""
    return InvalidTrajectoryError(
        f"has {len(candidates.outputs)} generations in {candidates.path!r}; rfprm score and rfprm "
        "select score each of them, in Python put each into a row of its own"
    )
