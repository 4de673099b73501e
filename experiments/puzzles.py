"""Made-up puzzles of who tells the truth: a task that a small policy learns from few solutions.

The answer is yes or no, so half of all guesses are right: an outcome says less about a solution
here than its steps do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rfprm_training.construction.procedures.machine import examples_of
from rfprm_training.construction.procedures.people import liars

HELD_OUT_SEED = 1
"""Of puzzles that nothing is trained on."""
_PEOPLE = (4, 4)
_MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Puzzle:
    question: str
    steps: tuple[str, ...]
    """Of the right solution; the last one states the answer."""

    @property
    def answer(self) -> str:
        """``yes`` or ``no``."""
        return self.steps[-1].rstrip(".").rsplit(maxsplit=1)[1]

    @property
    def solution(self) -> str:
        return "\n".join(self.steps)

    def is_right_throughout(self, text: str) -> bool:
        """Whether every line of ``text`` is the right one: no answer is right by luck here."""
        return tuple(line.strip() for line in text.strip().splitlines()) == self.steps


def puzzles(
    count: int,
    seed: int,
    *,
    people: tuple[int, int] = _PEOPLE,
    excluded: frozenset[str] = frozenset(),
) -> list[Puzzle]:
    """``count`` different puzzles about ``people``, the fewest and the most, none with a question
    that is ``excluded``."""
    rng, found = random.Random(seed), dict[str, Puzzle]()
    while len(found) < count:
        problem = liars(rng, people=people)
        (right,) = examples_of(problem, "liars", "", rng, errors=0)
        if problem.question not in excluded:
            found.setdefault(problem.question, Puzzle(problem.question, right.trajectory.steps))
    return list(found.values())


def held_out_puzzles(count: int) -> list[Puzzle]:
    """The puzzles that accuracy is measured on; up to 1,000, which nothing is trained on."""
    return puzzles(count, seed=HELD_OUT_SEED)


def training_puzzles(count: int, seed: int) -> list[Puzzle]:
    held_out = frozenset(puzzle.question for puzzle in held_out_puzzles(_MOST_HELD_OUT))
    return puzzles(count, seed, excluded=held_out)
