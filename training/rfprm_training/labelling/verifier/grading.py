"""Grades for the steps of a trace, from its own arithmetic and from a reference solution.

Pure. A grade is 1 (right), 0 (wrong) or NaN (nothing here says); with it comes the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rfprm_runtime.answers.spelled_numbers import NUMBER, to_fraction
from rfprm_training.labelling.verifier.equations import find_equations


@dataclass(frozen=True)
class StepGrade:
    """What the verifier says of one step."""

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
    """One grade a step.

    By arithmetic alone: a step with a false equation is wrong; one whose equations all hold is
    known to be right only so far, so without more evidence its grade is unknown.

    ``references`` are right solutions to the same question (lists of steps). Where the trace's
    ``outcome`` is known, they say which step goes astray: a value is supported when the question
    or a reference has it. In a right trace (``outcome`` true) every step without a false equation
    is right. In a wrong one the steps before the first unsupported or false one are right where
    they have a value to support; that one is wrong, and so is what builds on it. An unsupported
    value from which one addition leads back to a reference (16 - 3 on the way to 16 - 3 - 4) may
    be another way to the same end, and its step stays unknown. A wrong trace in which no step goes
    astray does so at its end: it stops short, or answers something else.
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
    """What is known of ``step`` after the right steps ``before``.

    Wrong where it has a false equation, or a value that no reference has and that leads back to
    none; right where it arrives at a reference's value that the steps before it have not; unknown
    where it arrives at nothing new.
    """
    steps = [*before, step]
    support = _Support.of(question, [line for reference in references for line in reference])
    grades = _until_astray(steps, [_by_arithmetic(line) for line in steps], support)
    if len(grades) < len(steps):
        return StepGrade(math.nan, "a step before it has a value that no reference has")
    is_new = _results(step) - {value for line in before for value in _results(line)}
    if grades[-1].grade == 1 and not is_new:
        return StepGrade(math.nan, "it arrives at nothing new")
    return grades[-1]


@dataclass(frozen=True)
class _Support:
    """What right solutions to a question contain."""

    numbers: frozenset[Fraction]
    """Every number of the question and of the solutions."""
    results: frozenset[Fraction]
    """What the solutions' steps arrive at."""

    @classmethod
    def of(cls, question: str, steps: Sequence[str]) -> _Support:
        numbers = (
            to_fraction(spelled) for text in (question, *steps) for spelled in NUMBER.findall(text)
        )
        results = {value for step in steps for value in _results(step)}
        return cls(frozenset(n for n in numbers if n is not None), frozenset(results))

    def may_lead_back(self, value: Fraction, reached: set[Fraction]) -> bool:
        """Whether adding or taking away a number at hand makes a result not ``reached`` so far."""
        missing = self.results - reached
        return any({value + n, value - n, n - value} & missing for n in self.numbers)


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
    """Up to the first step that goes astray, that one included."""
    out: list[StepGrade] = []
    reached: set[Fraction] = set()
    for step, grade in zip(steps, grades, strict=True):
        results = _results(step)
        reached |= results
        astray = sorted(results - support.numbers)
        if grade.grade == 0:
            out.append(grade)
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
    """The values that a step arrives at: right sides of equations, or else its last number."""
    values = {to_fraction(equation.right) for equation in find_equations(step)}
    if not values:
        numbers = NUMBER.findall(step)
        values = {to_fraction(numbers[-1])} if numbers else set()
    return {value for value in values if value is not None}
