"""A problem as a machine, its right trace, and traces with a slip. Knows no particular problem."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_runtime.types import Trajectory
from rfprm_training.example import UNKNOWN, Example

State = Any
Move = tuple[State, str]
"""The state after a step, and the step in words."""


@dataclass(frozen=True)
class Problem:
    """A question and the procedure that answers it. States are never changed in place."""

    question: str
    start: State
    steps: Sequence[Callable[[State], Move | None]]
    """A step returns None if it cannot continue from a wrong state."""
    slips: Sequence[Callable[[State], Move | None]]
    """The same steps, each with a mistake; a slip returns None if there is none to make."""
    answer: Callable[[State], str]
    """The last step, which states the answer."""


def examples_of(
    problem: Problem,
    kind: str,
    group: str,
    rng: random.Random,
    *,
    errors: int,
    cut_errors: int = 0,
) -> list[Example]:
    """A right trace, up to ``errors`` wrong ones, and up to ``cut_errors`` that end with their
    first wrong step; no two are the same up to it."""
    right = _carry_out(problem, None)
    assert right is not None
    examples = [_example(problem, right, (1.0,) * len(right), 1.0, group, "gold")]
    traces = [right]
    beginnings = {right}
    for place in rng.sample(range(len(problem.steps)), min(errors, len(problem.steps))):
        wrong = _carry_out(problem, place)
        if wrong is None or wrong in traces:
            continue
        traces.append(wrong)
        beginnings.add(wrong[: place + 1])
        # A mistake without consequences leaves the answer right, and the later steps unjudged.
        harmless = wrong[-1] == right[-1]
        after = UNKNOWN if harmless else 0.0
        labels = (1.0,) * place + (0.0,) + (after,) * (len(wrong) - place - 1)
        whole = UNKNOWN if harmless else 0.0
        examples.append(_example(problem, wrong, labels, whole, group, kind))
    for _ in range(cut_errors):
        place = rng.randrange(len(problem.steps))
        cut = _carry_out(problem, place, stop_there=True)
        if cut is not None and cut not in beginnings:
            beginnings.add(cut)
            labels = (1.0,) * place + (0.0,)
            examples.append(_example(problem, cut, labels, UNKNOWN, group, kind))
    return examples


def _carry_out(
    problem: Problem, slip_at: int | None, *, stop_there: bool = False
) -> tuple[str, ...] | None:
    """The steps with a slip at ``slip_at``; None if it, or a step after it, is impossible."""
    state, steps = problem.start, []
    for index, step in enumerate(problem.steps):
        right = step(state)
        move = problem.slips[index](state) if index == slip_at else right
        if move is None or (index == slip_at and right is not None and move[1] == right[1]):
            return None
        state, text = move
        steps.append(text)
        if stop_there and index == slip_at:
            return tuple(steps)
    return (*steps, problem.answer(state))


def _example(
    problem: Problem,
    steps: tuple[str, ...],
    labels: tuple[float, ...],
    whole: float,
    group: str,
    kind: str,
) -> Example:
    trajectory = Trajectory(question=problem.question, steps=steps, source="constructed")
    return Example(trajectory, labels, whole, group, kind)
