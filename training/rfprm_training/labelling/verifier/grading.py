"""Grades the steps of a trace by their arithmetic and by reference solutions.

Pure. A grade is 1 (right), 0 (wrong) or NaN (unknown), with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rfprm_runtime.answers.spelled_numbers import NUMBER, to_fraction
from rfprm_training.labelling.verifier.equations import find_equations

_MOST_TRIES = 20_000
"""In one trace, of values that may lead back to a reference and the numbers to try with them."""


@dataclass(frozen=True)
class StepGrade:
    """The grade of one step."""

    grade: float
    """1.0 right, 0.0 wrong, NaN unknown."""
    reason: str


def grade_steps(
    question: str,
    steps: Sequence[str],
    *,
    references: Sequence[Sequence[str]] = (),
    outcome: bool | None = None,
) -> list[StepGrade]:
    """One grade per step.

    By arithmetic alone, a step with a false equation is wrong. Equations that hold do not make a
    step right, so without more evidence its grade is unknown.

    ``references`` are right solutions to the same question (lists of steps). If the trace's
    ``outcome`` is known, they show which step goes astray. In a right trace (``outcome`` true)
    every step without a false equation is right. In a wrong one, a value is supported if the
    question or a reference has it. Steps with supported values are right up to the first step with
    an unsupported value or a false equation; that step and all later ones are wrong. An unsupported
    value that is one addition away from a reference (16 - 3 on the way to 16 - 3 - 4) may be
    another way to the answer, and leaves its step unknown. If no step of a wrong trace goes astray,
    its last one is wrong: the trace stops short, or answers something else.
    """
    grades = [_by_arithmetic(step) for step in steps]
    if outcome:
        return [
            grade if grade.grade == 0 else StepGrade(1.0, "the trace's outcome is right")
            for grade in grades
        ]
    right_steps = [step for reference in references for step in reference]
    if outcome is None or not right_steps:
        return grades
    return _in_wrong_trace(steps, grades, _Support.of(question, right_steps))


def grade_next_step(
    question: str, step: str, *, before: Sequence[str], references: Sequence[Sequence[str]]
) -> StepGrade:
    """The grade of ``step`` after the right steps ``before``.

    Wrong if it has a false equation, or a value that no reference has and that leads back to none.
    Right if it reaches a value of a reference that the earlier steps do not have. Unknown if it
    reaches nothing new.
    """
    steps = [*before, step]
    support = _Support.of(question, [line for reference in references for line in reference])
    grades = _until_astray(steps, [_by_arithmetic(line) for line in steps], support)
    if len(grades) < len(steps):
        return StepGrade(math.nan, "an earlier step has a value that no reference has")
    is_new = _results(step) - {value for line in before for value in _results(line)}
    if grades[-1].grade == 1 and not is_new:
        return StepGrade(math.nan, "it reaches nothing new")
    return grades[-1]


@dataclass(frozen=True)
class _Support:
    """The values of right solutions to a question."""

    numbers: frozenset[Fraction]
    """Every number in the question and the solutions."""
    results: frozenset[Fraction]
    """The values that the solutions' steps reach."""

    @classmethod
    def of(cls, question: str, steps: Sequence[str]) -> _Support:
        numbers = (
            to_fraction(spelled) for text in (question, *steps) for spelled in NUMBER.findall(text)
        )
        results = {value for step in steps for value in _results(step)}
        return cls(frozenset(n for n in numbers if n is not None), frozenset(results))

    def may_lead_back(self, value: Fraction, reached: set[Fraction]) -> bool:
        """Whether adding or subtracting a known number gives a result not ``reached`` yet."""
        return any(
            result in self.results and result not in reached
            for n in self.numbers
            for result in (value + n, value - n, n - value)
        )


def _in_wrong_trace(
    steps: Sequence[str], grades: list[StepGrade], support: _Support
) -> list[StepGrade]:
    out = _until_astray(steps, grades, support)
    if out[-1].grade == 0:
        rest = len(steps) - len(out)
        return out + [StepGrade(0.0, "it comes after a wrong step")] * rest
    out[-1] = StepGrade(0.0, "its values are right, the trace's answer is not")
    return out


def _until_astray(
    steps: Sequence[str], grades: list[StepGrade], support: _Support
) -> list[StepGrade]:
    """The grades up to the first step that goes astray, inclusive."""
    out: list[StepGrade] = []
    reached: set[Fraction] = set()
    tries_left = _MOST_TRIES
    for step, grade in zip(steps, grades, strict=True):
        results = _results(step)
        reached |= results
        astray = sorted(results - support.numbers)
        tries_left -= len(astray) * len(support.numbers)
        if grade.grade == 0:
            out.append(grade)
        elif astray and tries_left < 0:
            out.append(StepGrade(math.nan, "its values are too many to check"))
        elif astray and all(support.may_lead_back(value, reached) for value in astray):
            out.append(StepGrade(math.nan, f"{astray[0]} may be on another way to the answer"))
        elif astray:
            out.append(StepGrade(0.0, f"no right solution has the value {astray[0]}"))
        elif results:
            out.append(StepGrade(1.0, "right solutions have its values"))
        else:
            out.append(StepGrade(math.nan, "it computes nothing"))
        if out[-1].grade == 0:
            break
    return out


def _by_arithmetic(step: str) -> StepGrade:
    for equation in find_equations(step):
        if equation.holds is False:
            return StepGrade(0.0, f"{equation.left} is not {equation.right}")
    return StepGrade(math.nan, "no false equation")


def _results(step: str) -> set[Fraction]:
    """The values that a step reaches: the right sides of its equations, or else its last number."""
    values = {to_fraction(equation.right) for equation in find_equations(step)}
    if not values:
        numbers = NUMBER.findall(step)
        values = {to_fraction(numbers[-1])} if numbers else set()
    return {value for value in values if value is not None}
