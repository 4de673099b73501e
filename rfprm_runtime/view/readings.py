"""The trace of a row that has scores already, and which of its fields it was read from.

Rows do not say by which rule they were split, so the rules are tried; knows no scores but their
number.
"""

from __future__ import annotations

from typing import Any, get_args

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.formats import (
    CHAT_FIELDS,
    RESPONSE_FIELDS,
    TEXT_FIELDS,
    THINKING_FIELDS,
    chat_of,
    content_of,
    fields_of_generation,
    trajectory_from_fields,
)
from rfprm_runtime.parsing import SplitRule
from rfprm_runtime.types import Trajectory


def fields_of_trace(fields: dict[str, Any], generation: int | None) -> dict[str, Any]:
    """``rfprm select`` writes the whole row of several generations and the index of one."""
    if generation is None:
        return fields
    return fields_of_generation(fields, generation)


def read_trace(fields: dict[str, Any], num_scores: int) -> tuple[Trajectory, set[str]]:
    """The reading of the row that has as many steps as there are scores, and its fields.

    By which rule a text was split is not written down, but one that gives another number of steps
    was another one; two that give the same number give the same steps.
    """
    if isinstance(fields.get("generations"), list):
        raise InvalidTrajectoryError(
            "has several generations, and 'generation' is not the index of one; score it with "
            "rfprm select, which writes it"
        )
    errors, num_steps = [], []
    for split in get_args(SplitRule):
        try:
            trajectory = trajectory_from_fields(fields, split=split)
        except InvalidTrajectoryError as error:
            errors.append(error)
            continue
        if len(trajectory.steps) == num_scores:
            return trajectory, _read_from(fields)
        num_steps.append(len(trajectory.steps))
    if not num_steps:
        raise errors[0]
    raise InvalidTrajectoryError(
        f"{num_scores} step scores for {num_steps[0]} steps; the scores are of another "
        "trace, or its steps were changed: score it again"
    )


def _read_from(fields: dict[str, Any]) -> set[str]:
    """The fields that the trace was read from."""
    if "steps" in fields:
        return {"steps", "response"}
    if chat_of(fields) is not None:
        return set()  # a chat may hold more than its last question and answer
    thinking = next((name for name in THINKING_FIELDS if fields.get(name)), None)
    names = (*TEXT_FIELDS, *RESPONSE_FIELDS, "answer") if thinking is None else RESPONSE_FIELDS
    text = next((name for name in names if isinstance(fields.get(name), str)), "")
    return {text} if thinking is None else {thinking, text}


def without_what_was_said(fields: dict[str, Any], question: str) -> dict[str, Any]:
    """Without chats of nothing but the question and its answer, and without texts that say one of
    them again: ``rfprm select --sft`` adds the one and keeps the other by a new name."""
    said = {question}
    for name, value in fields.items():
        texts = _texts_of_chat(value) if name.removeprefix("original_") in CHAT_FIELDS else []
        if len(texts) == 2 and texts[0] == question:
            said.update(text for text in texts if isinstance(text, str))
            fields = {key: kept for key, kept in fields.items() if key != name}
    return {
        name: value
        for name, value in fields.items()
        if not (isinstance(value, str) and value in said)
    }


def _texts_of_chat(value: Any) -> list[Any]:
    messages = value if isinstance(value, list) else []
    if not all(isinstance(message, dict) for message in messages):
        return []
    return [content_of(message) for message in messages]
