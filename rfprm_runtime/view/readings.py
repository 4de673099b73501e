"""The trace of a row that already has scores, and the fields it was read from.

Rows do not record the rule that split them, so each rule is tried. Knows the number of scores, but
not their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.traces.chats import CHAT_FIELDS, turns_of
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.formats import Reading, described, read_parts
from rfprm_runtime.types import Trajectory


def read_trace(
    fields: dict[str, Any],
    num_scores: int,
    names: FieldNames,
    *,
    output: str | None = None,
) -> tuple[Trajectory, set[str], str]:
    """The reading of a row that has one step per score, the fields that it shows in full, and the
    fields that it was read from, in words.

    The row does not record its split rule. A rule that gives another number of steps cannot be the
    one, and two rules that give the same number give the same steps. Without step scores
    (``num_scores`` is 0) the first rule that can read the row is taken. ``output``: the field of
    one of the row's several outputs.
    """
    errors, num_steps = [], []
    for split in get_args(SplitRule):
        try:
            parts = read_parts(fields, Reading(split, names=names), output=output)
            trajectory = parts.build()
        except InvalidTrajectoryError as error:
            errors.append(error)
            continue
        if num_scores in (len(trajectory.steps), 0):
            return trajectory, _shown_fields(fields, parts.read_from), described(parts.read_from)
        num_steps.append(len(trajectory.steps))
    if not num_steps:
        raise errors[0]
    raise InvalidTrajectoryError(
        f"{num_scores} step scores for {num_steps[0]} steps: the scores belong to another trace, "
        "or its steps have changed; score it again"
    )


def _shown_fields(fields: Mapping[str, Any], read_from: Mapping[str, str]) -> set[str]:
    """The fields that the trace shows in full: texts and lists of texts. A chat may hold more."""
    return {name for name in read_from.values() if _is_text(fields.get(name))}


def _is_text(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def without_repeats(fields: dict[str, Any], question: str) -> dict[str, Any]:
    """``fields`` without repeats of the trace: chats that hold only the question and its answer,
    which ``rfprm select --sft`` adds, and texts equal to either, which it renames and keeps."""
    shown = {question}
    for name, value in fields.items():
        texts = _texts_of_chat(value) if name.removeprefix("original_") in CHAT_FIELDS else []
        if len(texts) == 2 and texts[0] == question:
            shown.update(texts)
            fields = {key: kept for key, kept in fields.items() if key != name}
    return {
        name: value
        for name, value in fields.items()
        if not (isinstance(value, str) and value in shown)
    }


def _texts_of_chat(value: Any) -> list[str]:
    try:
        turns = turns_of(value)
    except InvalidTrajectoryError:  # a field of the same name that is no chat
        return []
    return [turn.text for turn in turns if not turn.thinking]
