"""Made-up chains of whole-number arithmetic: a task that a small policy half masters.

Unlike the PRM's training problems they are worded alike and have small whole numbers, so that the
policy's errors are those of arithmetic and of attention, not of reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

HELD_OUT_SEED = 1
"""Of chains that nothing is trained on."""


@dataclass(frozen=True)
class Chain:
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def solution(self) -> str:
        return "\n".join((*self.steps, f"The answer is {self.answer}."))


def chains(count: int, seed: int, *, excluded: frozenset[str] = frozenset()) -> list[Chain]:
    """``count`` different chains, none with a question that is ``excluded``."""
    rng, found = random.Random(seed), dict[str, Chain]()
    while len(found) < count:
        chain = _chain(rng)
        if chain.question not in excluded:
            found.setdefault(chain.question, chain)
    return list(found.values())


def _chain(rng: random.Random) -> Chain:
    value = rng.randint(2, 30)
    told, steps = [f"Start with {value}."], []
    for _ in range(rng.randint(3, 5)):
        told_here, sign, number = _operation(value, rng)
        result = {"+": value + number, "-": value - number, "*": value * number}[sign]
        told.append(told_here)
        steps.append(f"{value} {sign} {number} = {result}")
        value = result
    return Chain(" ".join((*told, "What is the result?")), tuple(steps), str(value))


def _operation(value: int, rng: random.Random) -> tuple[str, str, int]:
    kinds = ["+", "-"] if value > 50 else ["+", "-", "*"]
    kind = rng.choice(kinds)
    if kind == "*":
        number = rng.randint(2, 4)
        return f"Multiply by {number}.", "*", number
    if kind == "-" and value > 3:
        number = rng.randint(2, min(value - 1, 20))
        return f"Subtract {number}.", "-", number
    number = rng.randint(2, 20)
    return f"Add {number}.", "+", number
