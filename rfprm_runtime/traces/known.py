"""What a row knows about its trace besides: reference answer, outcome, labels of steps, source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.rules import AnswerRules
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
    names = ANSWER_FIELDS if answer_field is None else (answer_field,)
    answer = _answer(fields, names)
    if answer is not None:
        metadata.setdefault("answer", answer)
    if labels is not None:
        metadata.setdefault("step_labels", labels)
    return {
        "outcome": _outcome(fields),
        "source": own if isinstance(own, str) else source,
        "metadata": metadata,
    }


def reference_answer(trajectory: Trajectory) -> str | None:
    """The right answer, if the trajectory's row gave it."""
    found = trajectory.metadata.get("answer")
    return found if isinstance(found, str) else None


def _answer(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        path = named(fields, name)
        value = None if path is None else fields[path]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                continue
            # Tables keep a column of whole numbers with gaps as floats.
            return str(int(value)) if value == int(value) else repr(value)
        if isinstance(value, str) and value.strip():
            marked = _marked_answer(value)
            if marked is None and name == "solution":
                continue  # work without an answer
            return marked or value.strip()
    return None


def _marked_answer(value: str) -> str | None:
    """The answer that a whole solution marks. What marks none is taken as it stands."""
    is_whole = len(value) > _LONG or "####" in value or "\\boxed" in value
    return final_answer(value, _MARKED) if is_whole else None


def _outcome(fields: Mapping[str, Any]) -> bool | float | None:
    for name in OUTCOME_FIELDS:
        value = fields.get(name)
        if isinstance(value, str):
            value = _TRUTH.get(value.strip().lower())
        if isinstance(value, (bool, int, float)):
            return value
    return None
