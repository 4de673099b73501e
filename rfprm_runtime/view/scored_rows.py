"""Reads what ``rfprm score`` and ``rfprm select`` write back into traces with scores.

A row that cannot be shown becomes an error with its place and never stops the others.
"""

from __future__ import annotations

import json
import reprlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.added_fields import (
    FIRST_ERROR,
    GENERATION,
    SCORE_FIELDS,
    SELECTION_FIELDS,
    WINDOWED_FROM,
)
from rfprm_runtime.traces.candidates import Candidates, candidates_of
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.names import OUTCOME_FIELDS
from rfprm_runtime.traces.present import is_empty
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import read_records
from rfprm_runtime.view.readings import read_trace, without_repeats


@dataclass(frozen=True)
class ScoredTrace:
    """A trace with the scores from its row."""

    question: str
    steps: tuple[str, ...]
    response: tuple[str, ...]
    step_scores: list[float]  # [T], or [0] if there are none
    trajectory_score: float | None
    """There is one if there are no step scores."""
    reward: float
    windowed_from: int | None
    first_error: int | None
    """The step, from 0, where the trace goes wrong first; None if no step does, or if nobody
    asked."""
    error_sought: bool
    """Whether ``rfprm score --first-error`` wrote the row."""
    selection_score: float | None
    """What ``rfprm select`` ranked by; like the next two, None in files it did not write."""
    rank: int | None  # from 1
    generation: int | None  # from 0
    outcome: bool | float | None
    source: str | None
    other_fields: str
    """The fields not shown elsewhere, as indented JSON; empty if there are none."""
    read_from: str
    """The fields of question and trace, in words."""


@dataclass(frozen=True)
class ScoredRow:
    """A record with its scored trace, or the error that it has instead."""

    record: Record
    found: ScoredTrace | InvalidTrajectoryError


def read_scored_rows(
    path: Path, *, prefix: str = "", names: FieldNames | None = None
) -> Iterator[ScoredRow]:
    """Every row of a scored file, lazily.

    ``prefix`` precedes the names of the score fields; ``names`` are the fields of the trace.
    Raises :class:`rfprm_runtime.SourceError` if there is no such file.
    """
    for record in read_records(str(path)):
        if record.error is not None:
            yield ScoredRow(record, record.error)
            continue
        try:
            yield ScoredRow(record, scored_trace(record.fields, prefix=prefix, names=names))
        except InvalidTrajectoryError as error:
            yield ScoredRow(record, error)


def scored_trace(
    fields: dict[str, Any], *, prefix: str = "", names: FieldNames | None = None
) -> ScoredTrace:
    """The trace and the scores of one row. Raises :class:`InvalidTrajectoryError`."""
    names = names or FieldNames()
    scores = {name: fields.get(prefix + name) for name in (*SCORE_FIELDS, WINDOWED_FROM)}
    step_scores = _step_scores(fields, prefix)
    trajectory_score = _trajectory_score(
        scores["trajectory_score"], prefix + "trajectory_score", has_steps=bool(step_scores)
    )
    reward = _reward(scores["reward"], prefix + "reward")
    first_error, error_sought = _first_error(fields, prefix, len(step_scores))
    added = (*scores, FIRST_ERROR) if error_sought else scores
    own = _without(fields, {prefix + name for name in added})
    several = candidates_of(own, names)
    selected = _selection(fields, prefix, several)
    output = None
    if several is not None and "generation" in selected:  # the whole row, with the index of one
        own, output = several.row(selected["generation"]), several.path
    elif several is not None and len(several.outputs) > 1:
        raise InvalidTrajectoryError(
            f"has {len(several.outputs)} generations in {several.path!r}, but 'generation' is not "
            "the index of one; score the row with rfprm score or select, which write that field"
        )
    own = _without(own, {prefix + name for name in selected})
    trajectory, shown_fields, read_from = read_trace(own, len(step_scores), names, output=output)
    source, (outcome, outcome_field) = own.get("source"), _outcome(own)
    shown = {*shown_fields, outcome_field, output, "source" if isinstance(source, str) else None}
    rest = {n: value for n, value in own.items() if n not in shown and not is_empty(value)}
    return ScoredTrace(
        question=trajectory.question,
        steps=trajectory.steps,
        response=trajectory.response,
        step_scores=step_scores,
        trajectory_score=trajectory_score,
        reward=reward,
        windowed_from=_index(scores["windowed_from"]),
        first_error=first_error,
        error_sought=error_sought,
        selection_score=selected.get("selection_score"),
        rank=selected.get("rank"),
        generation=selected.get("generation"),
        outcome=outcome,
        source=source if isinstance(source, str) else None,
        other_fields=_other_fields(without_repeats(rest, trajectory.question)),
        read_from=read_from,
    )


def _without(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _selection(fields: dict[str, Any], prefix: str, several: Candidates | None) -> dict[str, Any]:
    """What ``rfprm select`` added to the row; other fields of the same names are left alone."""
    score, rank, generation = (
        fields.get(prefix + name) for name in (*SELECTION_FIELDS, GENERATION)
    )
    found: dict[str, Any] = {}
    if _is_finite(score) and _index(rank) is not None:
        found |= {"selection_score": score, "rank": rank}
    if several is not None and _index(generation) in range(len(several.outputs)):
        found["generation"] = generation
    return found


def _first_error(fields: dict[str, Any], prefix: str, num_steps: int) -> tuple[int | None, bool]:
    """What ``rfprm score --first-error`` wrote, and whether it did; another field of that name is
    left alone."""
    value = fields.get(prefix + FIRST_ERROR, ...)
    if value is None:
        return None, True
    return (value, True) if _index(value) in range(num_steps) else (None, False)


def _step_scores(fields: dict[str, Any], prefix: str) -> list[float]:
    name = prefix + "step_scores"
    values = fields.get(name)
    if values is None:
        similar = next((key for key in fields if key != name and key.endswith("step_scores")), None)
        hint = (
            "score the file first: rfprm score FILE -o SCORED"
            if similar is None
            else f"there is {similar!r}: pass --prefix {similar.removesuffix('step_scores')!r}"
        )
        raise InvalidTrajectoryError(f"no field {name!r}; {hint}")
    if not isinstance(values, list):
        raise InvalidTrajectoryError(
            f"{name} is {reprlib.repr(values)}, expected a list of one number per step"
        )
    for index, value in enumerate(values):
        if not _is_finite(value):
            raise InvalidTrajectoryError(
                f"{name}[{index}] is {reprlib.repr(value)}, expected a finite number"
            )
    return values


def _trajectory_score(value: Any, name: str, *, has_steps: bool) -> float | None:
    if _is_finite(value) or (value is None and has_steps):
        return value  # type: ignore[no-any-return]
    expected = "a finite number" + (" or null" if has_steps else ": there are no step scores")
    raise InvalidTrajectoryError(f"{name} is {reprlib.repr(value)}, expected {expected}")


def _reward(value: Any, name: str) -> float:
    if _is_finite(value):
        return value  # type: ignore[no-any-return]
    raise InvalidTrajectoryError(f"{name} is {reprlib.repr(value)}, expected a finite number")


def _index(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0.0 <= value <= 1.0


def _is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold; JSON's whole numbers may be larger."""
    return _is_number(value) and abs(value) <= sys.float_info.max


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _outcome(fields: dict[str, Any]) -> tuple[bool | float | None, str | None]:
    """The outcome, and the field that holds it."""
    for name in OUTCOME_FIELDS:
        value = fields.get(name)
        if isinstance(value, bool) or _is_share(value):
            return value, name
    return None, None


def _other_fields(rest: dict[str, Any]) -> str:
    if not rest:
        return ""
    try:
        return json.dumps(rest, ensure_ascii=False, indent=2, default=str)
    except RecursionError:
        raise InvalidTrajectoryError("its fields are nested too deeply to be shown") from None
