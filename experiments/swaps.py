"""Made-up puzzles of who holds what after some swaps: a task that a small policy half masters, and
that the shipped PRMs know.

The answer is one of three options, so that a third of all guesses are right: an outcome says less
about a trace here than its steps do.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from rfprm_training.construction.procedures.machine import examples_of
from rfprm_training.construction.procedures.people import tracking

HELD_OUT_SEED = 1
"""Of puzzles that nothing is trained on."""
_PEOPLE, _SWAPS = (3, 3), (2, 3)


@dataclass(frozen=True)
class Puzzle:
    question: str
    steps: tuple[str, ...]
    """Of the right solution; the last one states the answer."""

    @property
    def answer(self) -> str:
        """The letter of an option."""
        (letter,) = re.findall(r"\(([A-C])\)", self.steps[-1])
        return str(letter)

    @property
    def solution(self) -> str:
        return "\n".join(self.steps)

    def is_right_throughout(self, text: str) -> bool:
        """Whether every line of ``text`` is the right one: no answer is right by luck here."""
        return tuple(line.strip() for line in text.strip().splitlines()) == self.steps


def puzzles(count: int, seed: int, *, excluded: frozenset[str] = frozenset()) -> list[Puzzle]:
    """``count`` different puzzles, none with a question that is ``excluded``. All solutions call
    people by their initials: a policy has one style to learn."""
    rng, found = random.Random(seed), dict[str, Puzzle]()
    while len(found) < count:
        problem = tracking(rng, people=_PEOPLE, swaps=_SWAPS)
        (right,) = examples_of(problem, "tracking", "", rng, errors=0)
        is_short = re.match("At the start: [A-Z]:", right.trajectory.steps[0])
        if is_short and problem.question not in excluded:
            found.setdefault(problem.question, Puzzle(problem.question, right.trajectory.steps))
    return list(found.values())
