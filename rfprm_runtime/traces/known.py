"""What a row knows about its trace besides: reference answer, outcome, labels of steps, source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.references import acceptable_answers
from rfprm_runtime.answers.rules import AnswerRules
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.traces.layouts import named
from rfprm_runtime.traces.names import ANSWER_FIELDS, OUTCOME_FIELDS
from rfprm_runtime.types import Trajectory

_MARKED = AnswerRules(format="marked")
_LONG = 80
"""In characters: a longer text may be a solution that says what its answer is."""
_TRUTH = {"true": True, "false": False, "correct": True, "incorrect": False}


def known_fields(
    fields: Mapping[str, Any],
    answer_field: str | None,
    labels: list[Any] | None,
    source: str | None,
) -> dict[str, Any]:
    """Outcome, source and metadata of a trajectory; the reference answer is in the metadata.

    ``answer_field``: the field of the reference answer, if a caller named it.
    """
    own, kept = fields.get("source"), fields.get("metadata")
    metadata = dict(kept) if isinstance(kept, dict) else {}
    answers = references_of(fields, answer_field)
    if len(answers) == 1:
        metadata.setdefault("answer", answers[0])
    if labels is not None:
        metadata.setdefault("step_labels", labels)
    return {
        "outcome": outcome_of(fields),
        "source": own if isinstance(own, str) else source,
        "metadata": metadata,
    }


def reference_answer(trajectory: Trajectory) -> str | None:
    """The right answer, if the trajectory's row gave it."""
    found = trajectory.metadata.get("answer")
    return found if isinstance(found, str) else None


def references_of(fields: Mapping[str, Any], answer_field: str | None = None) -> list[str]:
    """The answers that are right, of the first field that gives any. ``answer_field``: that field,
    if a caller named it."""
    for name in ANSWER_FIELDS if answer_field is None else (answer_field,):
        path = named(fields, name)
        value = None if path is None else fields[path]
        if isinstance(value, str):
            found = _answers_of_text(value, is_work=name == "solution")
        else:
            found = _acceptable(value)
        if found:
            return found
    return []


def _acceptable(value: Any) -> list[str]:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return []  # a verdict, or a gap; neither is an answer
    try:
        return acceptable_answers(value)
    except InvalidArgumentError:
        return []


def _answers_of_text(value: str, *, is_work: bool) -> list[str]:
    """What a whole solution marks as its answer. What marks none is taken as it stands, unless it
    is work without an answer."""
    is_whole = len(value) > _LONG or "####" in value or "\\boxed" in value
    marked = final_answer(value, _MARKED) if is_whole else None
    if marked is not None:
        return [marked]
    return [] if is_work or not value.strip() else [value.strip()]


def outcome_of(fields: Mapping[str, Any]) -> bool | float | None:
    """Whether, or how far, the trace is right, if the row says so."""
    for name in OUTCOME_FIELDS:
        value = fields.get(name)
        if isinstance(value, str):
            value = _TRUTH.get(value.strip().lower())
        if isinstance(value, (bool, int, float)):
            return value
    return None
