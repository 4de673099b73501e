"""Traces with other flaws than a wrong computation. Pure and seeded.

Each function takes a right solution and one to another question, and labels every step, and the
trace as a whole, as right (1), wrong (0) or unknown (NaN).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from rfprm_runtime.answers.spelled_numbers import to_fraction
from rfprm_training.construction.propagation import last_note
from rfprm_training.example import UNKNOWN
from rfprm_training.gsm8k import GoldSolution, strip_notes

_OPPOSITES = {
    "more": "less",
    "less": "more",
    "fewer": "more",
    "twice": "half",
    "half": "twice",
    "before": "after",
    "after": "before",
    "increase": "decrease",
    "buys": "sells",
    "sells": "buys",
    "bought": "sold",
    "sold": "bought",
    "gains": "loses",
    "earns": "spends",
    "earned": "spent",
    "spends": "earns",
    "spent": "earned",
    "morning": "evening",
    "boys": "girls",
    "girls": "boys",
    "older": "younger",
    "younger": "older",
    "week": "month",
    "month": "week",
    "day": "week",
    "hours": "minutes",
    "minutes": "hours",
    "profit": "cost",
    "cost": "profit",
    "first": "second",
    "second": "first",
}
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b|^[A-Z][a-z]{2,}(?='s| )")
_MOST_NAMES = 100
_NOT_NAMES = {"The", "She", "They", "There", "This", "That", "After", "Each", "Then", "His", "Her"}


@dataclass(frozen=True)
class FlawedTrace:
    """A trace with labels for its steps and for the whole, in [0, 1] or NaN."""

    steps: tuple[str, ...]
    answer: str
    step_labels: tuple[float, ...]
    trajectory_label: float


def stopped_early(
    solution: GoldSolution, other: GoldSolution, rng: random.Random
) -> FlawedTrace | None:
    """Every step is right, but the last is missing, so the answer is to another question."""
    steps = solution.steps[:-1]
    note = last_note(steps[-1]) if steps else None
    if note is None or to_fraction(note.group(2)) == to_fraction(solution.answer):
        return None
    plain = tuple(strip_notes(step) for step in steps)
    return FlawedTrace(plain, note.group(2), (1.0,) * len(plain), 0.0)


def wrong_words(
    solution: GoldSolution, other: GoldSolution, rng: random.Random
) -> FlawedTrace | None:
    """The numbers are right, but a word says the opposite or names somebody else."""
    plain = [strip_notes(step) for step in solution.steps]
    names = sorted(set(_NAME.findall(" ".join((solution.question, *plain)))) - _NOT_NAMES)
    names = names[:_MOST_NAMES]
    places = list(range(len(plain)))
    rng.shuffle(places)
    for place in places:
        changed = _with_another_word(plain[place], names, rng)
        if changed is not None:
            labels = [1.0] * len(plain)
            labels[place] = 0.0
            # Later steps still compute with the right numbers.
            labels[place + 1 :] = [UNKNOWN] * (len(plain) - place - 1)
            steps = (*plain[:place], changed, *plain[place + 1 :])
            return FlawedTrace(steps, solution.answer, tuple(labels), UNKNOWN)
    return None


def _with_another_word(step: str, names: list[str], rng: random.Random) -> str | None:
    words = [m for m in re.finditer(r"[A-Za-z]+", step) if m.group() in _OPPOSITES]
    mentioned = [m for m in re.finditer(r"[A-Za-z]+", step) if m.group() in names]
    options: list[tuple[re.Match[str], str]] = [(m, _OPPOSITES[m.group()]) for m in words]
    options += [(m, name) for m in mentioned for name in names if name != m.group()]
    if not options:
        return None
    match, new = rng.choice(options)
    return step[: match.start()] + new + step[match.end() :]


def foreign_step(
    solution: GoldSolution, other: GoldSolution, rng: random.Random
) -> FlawedTrace | None:
    """A step from another question's solution stands between right ones, which do not use it."""
    plain = [strip_notes(step) for step in solution.steps]
    place = rng.randrange(len(plain))
    stranger = strip_notes(rng.choice(other.steps))
    steps = (*plain[:place], stranger, *plain[place:])
    labels = [1.0] * len(steps)
    labels[place] = 0.0
    return FlawedTrace(tuple(steps), solution.answer, tuple(labels), UNKNOWN)


def other_question(
    solution: GoldSolution, other: GoldSolution, rng: random.Random
) -> FlawedTrace | None:
    """The trace is the solution to another question."""
    if to_fraction(other.answer) == to_fraction(solution.answer):
        return None
    plain = tuple(strip_notes(step) for step in other.steps)
    return FlawedTrace(plain, other.answer, (0.0,) * len(plain), 0.0)


def repeated_step(
    solution: GoldSolution, other: GoldSolution, rng: random.Random
) -> FlawedTrace | None:
    """A right step is repeated word for word in place of the next one."""
    plain = [strip_notes(step) for step in solution.steps]
    if len(plain) < 3:
        return None
    place = rng.randrange(1, len(plain) - 1)
    steps = (*plain[:place], plain[place - 1], *plain[place + 1 :])
    labels = (*(1.0,) * place, 0.0, *(UNKNOWN,) * (len(plain) - place - 1))
    return FlawedTrace(steps, solution.answer, labels, UNKNOWN)


Flaw = Callable[[GoldSolution, GoldSolution, random.Random], FlawedTrace | None]
FLAWS: dict[str, Flaw] = {
    "stopped_early": stopped_early,
    "wrong_words": wrong_words,
    "foreign_step": foreign_step,
    "other_question": other_question,
    "repeated_step": repeated_step,
}
