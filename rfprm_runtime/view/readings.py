"""The trace of a row that has scores already, and which of its fields it was read from.

Rows do not say by which rule they were split, so the rules are tried; knows no scores but their
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.traces.chats import CHAT_FIELDS, content_of
from rfprm_runtime.traces.formats import read_parts
from rfprm_runtime.types import Trajectory


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
            parts = read_parts(fields, split)
            trajectory = parts.build()
        except InvalidTrajectoryError as error:
            errors.append(error)
            continue
        if len(trajectory.steps) == num_scores:
            return trajectory, _shown_fields(parts.read_from)
        num_steps.append(len(trajectory.steps))
    if not num_steps:
        raise errors[0]
    raise InvalidTrajectoryError(
        f"{num_scores} step scores for {num_steps[0]} steps; the scores are of another "
        "trace, or its steps were changed: score it again"
    )


def _shown_fields(read_from: Mapping[str, str]) -> set[str]:
    """The fields of which the trace shows all. A chat may hold more than its last turn."""
    return {name for part, name in read_from.items() if part != "chat"}


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
