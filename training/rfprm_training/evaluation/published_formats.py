"""Rows of evaluation sets whose steps people have marked, in the formats that authors publish.

A step label is 1 (right), 0 (wrong) or NaN (not labelled). Values are taken in every spelling that
means one thing (a whole number that a table made a float of, a list that a CSV made a text of), and
refused otherwise. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.traces.known import outcome_of
from rfprm_runtime.traces.layouts import steps_in
from rfprm_runtime.traces.present import is_empty
from rfprm_runtime.types import Trajectory
from rfprm_training import DataError
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.rewarded import question_key

ORIGINAL = "right"
"""The kind of a process of PRMBench before it was modified."""
SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
"""Of ProcessBench, in the paper's order."""
EMPTY_STEPS = "left out empty steps, with their labels"
STRAY_ERRORS = "ignored error_steps that the process does not have"


@dataclass(frozen=True)
class ReadRow:
    """What one row holds."""

    examples: tuple[Example, ...]
    notes: frozenset[str] = frozenset()
    """What was done that its author may not have meant: :data:`EMPTY_STEPS` and
    :data:`STRAY_ERRORS`."""


def _steps(value: Any) -> Any:
    """A list of texts, also of objects with a text each (docs/rows.md)."""
    steps = _list(value)
    if any(isinstance(step, Mapping) for step in steps):
        found = steps_in({"steps": steps}, "blank_lines", given="steps")
        steps = [] if found is None else found.texts
    for index, step in enumerate(steps):
        if not isinstance(step, str):
            raise DataError(f"step {index} (from 0) is {shown(step)}, expected a text")
    return steps


def _list(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if not isinstance(value, (list, tuple)):
        raise DataError(f"is {shown(value)}, expected a list")
    return list(value)


def _whole(value: Any) -> int:
    """A whole number, which a table may have made a float or a text of."""
    if not isinstance(value, bool) and isinstance(value, (Real, Decimal, str)):
        with suppress(ValueError, OverflowError, ArithmeticError):
            if float(value).is_integer():
                return int(float(value))
    raise DataError(f"is {shown(value)}, expected a whole number")


def _first_error(value: Any) -> int:
    if is_empty(value):
        raise DataError("is empty, expected the first wrong step from 0, or -1 if none is wrong")
    return _whole(value)


def _mistake(value: Any) -> int | None:
    if is_empty(value):
        return None
    if (found := _whole(value)) < 0:
        raise DataError(f"is {found}, expected the first wrong step from 0, or null if none is")
    return found


_VERDICTS = {"1": True, "0": False, "yes": True, "no": False}


def verdict(value: Any) -> float | None:
    """How far a trace is right, in [0, 1], as a row states it: also as the text that a CSV has.
    None for a gap. Raises :class:`DataError` for anything else."""
    if is_empty(value):
        return None
    if isinstance(value, str):
        value = _VERDICTS.get(value.strip().lower(), value)
    found = outcome_of({"outcome": value})
    if found is None or not 0 <= found <= 1:
        raise DataError(f"is {shown(value)}, expected true, false or a share")
    return float(found)


def _text_or_none(value: Any) -> str | None:
    return None if is_empty(value) else str(value).strip()


Steps = Annotated[tuple[str, ...], BeforeValidator(_steps)]
Places = Annotated[
    tuple[int, ...], BeforeValidator(lambda value: [_whole(one) for one in _list(value)])
]
Text = Annotated[str | None, BeforeValidator(_text_or_none)]
Verdict = Annotated[float | None, BeforeValidator(verdict)]


class _Fields(Validated):
    """Fields that no figure needs are allowed, and not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    refusal = DataError


class _ProcessBench(_Fields):
    problem: str
    steps: Steps
    label: Annotated[int, BeforeValidator(_first_error)]
    final_answer_correct: Verdict = None
    id: Annotated[str, BeforeValidator(str)] = ""


class _BigBenchMistake(_Fields):
    input: str
    steps: Steps
    mistake_index: Annotated[int | None, BeforeValidator(_mistake)]
    answer: Text = None
    target: Text = None


class _PRMBench(_Fields):
    original_question: str | None = Field(
        None, validation_alias=AliasChoices("original_question", "question")
    )
    original_process: Annotated[
        tuple[str, ...] | None, BeforeValidator(lambda v: None if is_empty(v) else _steps(v))
    ] = None
    modified_question: str = Field(validation_alias=AliasChoices("modified_question", "question"))
    modified_process: Steps
    error_steps: Places
    classification: Annotated[
        str, BeforeValidator(lambda v: "prmbench" if is_empty(v) else str(v))
    ] = "prmbench"


def processbench(fields: Mapping[str, Any]) -> ReadRow:
    """ProcessBench (arXiv 2412.06559): ``problem``, ``steps``, ``label`` (first wrong step from 0,
    or -1), ``final_answer_correct``, and ``id``, such as ``gsm8k-12``, which names the subset."""
    row = _ProcessBench.model_validate(fields)
    return _first_error_row(
        row.problem,
        row.steps,
        None if row.label == -1 else row.label,
        _subset(row.id),
        row.final_answer_correct,
    )


def _subset(identity: str) -> str:
    name = identity.lower()
    for subset in SUBSETS:
        if name.startswith(subset) and not name[len(subset) : len(subset) + 1].isalnum():
            return subset
    return identity.rpartition("-")[0] or "processbench"


def big_bench_mistake(fields: Mapping[str, Any]) -> ReadRow:
    """BIG-Bench-Mistake (arXiv 2311.08516): ``input``, ``steps``, ``mistake_index`` (from 0, or
    null), ``answer`` and ``target``."""
    row = _BigBenchMistake.model_validate(fields)
    outcome = None if None in (row.answer, row.target) else row.answer == row.target
    return _first_error_row(row.input, row.steps, row.mistake_index, "big_bench_mistake", outcome)


def prmbench(fields: Mapping[str, Any]) -> ReadRow:
    """PRMBench (arXiv 2501.03124): a right process and one with ``error_steps`` (from 1). Wrong
    steps that do not exist are passed over, as upstream's program does."""
    row = _PRMBench.model_validate(fields)
    steps = row.modified_process
    wrong = set(row.error_steps)
    labels = tuple(float(index not in wrong) for index in range(1, len(steps) + 1))
    found = [_example_of(row.modified_question, steps, labels, UNKNOWN, row.classification)]
    if row.original_process is not None:
        right = (1.0,) * len(row.original_process)
        question = row.original_question or row.modified_question
        found.insert(0, _example_of(question, row.original_process, right, UNKNOWN, ORIGINAL))
    notes = frozenset[str]().union(*(one.notes for one in found))
    if any(not 1 <= place <= len(steps) for place in wrong):
        notes |= {STRAY_ERRORS}
    return ReadRow(tuple(example for one in found for example in one.examples), notes)


FORMATS: dict[str, Callable[[Mapping[str, Any]], ReadRow]] = {
    "processbench": processbench,
    "big_bench_mistake": big_bench_mistake,
    "prmbench": prmbench,
}


def _first_error_row(
    question: str,
    steps: tuple[str, ...],
    first_error: int | None,
    kind: str,
    outcome: float | None,
) -> ReadRow:
    if first_error is None:
        labels: tuple[float, ...] = (1.0,) * len(steps)
    elif 0 <= first_error < len(steps):
        if not steps[first_error].strip():
            raise DataError(f"the first wrong step, {first_error} (from 0), holds nothing")
        after = len(steps) - first_error - 1
        labels = (1.0,) * first_error + (0.0,) + (UNKNOWN,) * after
    else:
        raise DataError(
            f"the first wrong step is {first_error} (from 0), but there are {len(steps)} steps"
        )
    return _example_of(
        question, steps, labels, UNKNOWN if outcome is None else float(outcome >= 0.5), kind
    )


def _example_of(
    question: str, steps: tuple[str, ...], labels: tuple[float, ...], outcome: float, kind: str
) -> ReadRow:
    """Steps that hold nothing are left out, with their labels: PRMBench has some."""
    kept = [index for index, step in enumerate(steps) if step.strip()]
    try:
        trajectory = Trajectory.build(question=question, steps=[steps[index] for index in kept])
    except InvalidTrajectoryError as error:
        raise DataError(str(error)) from None
    own = tuple(labels[index] for index in kept)
    example = Example(trajectory, own, outcome, question_key(question), kind, held_out=True)
    return ReadRow((example,), frozenset({EMPTY_STEPS} if len(kept) < len(steps) else ()))
