"""A problem as a machine, its right trace, and traces with a slip. Knows no problem by name."""

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
    """What a procedure is asked, and how it is carried out; states are never changed in place."""

    question: str
    start: State
    steps: Sequence[Callable[[State], Move]]
    slips: Sequence[Callable[[State], Move | None]]
    """The same steps, each with a mistake; None where it has none to make."""
    answer: Callable[[State], str]
    """The last step, which states the answer."""


def examples_of(
    problem: Problem, kind: str, group: str, rng: random.Random, *, errors: int
) -> list[Example]:
    """A right trace and up to ``errors`` wrong ones to ``problem``."""
    right = _carry_out(problem, None)
    assert right is not None
    examples = [_example(problem, right, (1.0,) * len(right), 1.0, group, "gold")]
    traces = [right]
    for place in rng.sample(range(len(problem.steps)), min(errors, len(problem.steps))):
        wrong = _carry_out(problem, place)
        if wrong is None or wrong in traces:
            continue
        traces.append(wrong)
        # A mistake without consequence leaves the answer right, and the steps after it alone.
        harmless = wrong[-1] == right[-1]
        after = UNKNOWN if harmless else 0.0
        labels = (1.0,) * place + (0.0,) + (after,) * (len(wrong) - place - 1)
        whole = UNKNOWN if harmless else 0.0
        examples.append(_example(problem, wrong, labels, whole, group, kind))
    return examples


def _carry_out(problem: Problem, slip_at: int | None) -> tuple[str, ...] | None:
    state, said = problem.start, []
    for index, step in enumerate(problem.steps):
        move = problem.slips[index](state) if index == slip_at else step(state)
        if move is None or (index == slip_at and move[1] == step(state)[1]):
            return None
        state, text = move
        said.append(text)
    return (*said, problem.answer(state))


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
