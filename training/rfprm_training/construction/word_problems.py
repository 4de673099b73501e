"""Generated word problems in GSM8K's format, to run the whole chain without a data set.

Every solution has calculator notes, so errors can be constructed from it. Seeded.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from rfprm_training.gsm8k import GoldSolution

_NAMES = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivan", "Jun", "Kofi")
_THINGS = ("pencils", "apples", "stamps", "marbles", "eggs", "books", "tickets", "cards", "shells")


def word_problem(rng: random.Random) -> GoldSolution:
    """A random problem."""
    return rng.choice(_PROBLEMS)(rng)


def word_problems(count: int, seed: int) -> list[GoldSolution]:
    """``count`` problems with different questions."""
    rng = random.Random(seed)
    found: dict[str, GoldSolution] = {}
    while len(found) < count:
        problem = word_problem(rng)
        found.setdefault(problem.question, problem)
    return list(found.values())


def _note(expression: str, value: int) -> str:
    return f"{expression} = <<{expression.replace(' ', '')}={value}>>{value}"


def _packs(rng: random.Random) -> GoldSolution:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    boxes, each, price = rng.randint(3, 9), rng.randint(11, 29), rng.randint(2, 7)
    total = boxes * each
    given = rng.randint(2, total // 3)
    left = total - given
    return GoldSolution(
        f"{name} has {boxes} boxes of {each} {thing}. {name} gives {given} of them away and sells "
        f"the rest at ${price} each. How many dollars does {name} get?",
        (
            f"{name} has {_note(f'{boxes} * {each}', total)} {thing}.",
            f"After giving some away there are {_note(f'{total} - {given}', left)} {thing} left.",
            f"So {name} gets {_note(f'{left} * {price}', left * price)} dollars.",
        ),
        str(left * price),
    )


def _sharing(rng: random.Random) -> GoldSolution:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    friends, share, lost = rng.randint(3, 8), rng.randint(6, 24), rng.randint(3, 30)
    kept = friends * share
    first = rng.randint(10, kept + lost - 1) if kept + lost > 11 else kept
    second = kept + lost - first
    found = first + second
    return GoldSolution(
        f"{name} finds {first} {thing} on Monday and {second} on Tuesday, but loses {lost} of "
        f"them. The rest is shared equally by {friends} friends. How many {thing} does each get?",
        (
            f"{name} finds {_note(f'{first} + {second}', found)} {thing}.",
            f"After the loss {_note(f'{found} - {lost}', kept)} {thing} remain.",
            f"Each friend gets {_note(f'{kept} / {friends}', share)} {thing}.",
        ),
        str(share),
    )


def _wages(rng: random.Random) -> GoldSolution:
    name = rng.choice(_NAMES)
    hours, days, wage = rng.randint(3, 9), rng.randint(2, 6), rng.randint(11, 29)
    worked = hours * days
    earned = worked * wage
    rent = rng.randint(10, max(11, earned // 2))
    return GoldSolution(
        f"{name} works {hours} hours a day on {days} days a week and earns ${wage} an hour. From "
        f"this {name} pays ${rent} of rent. How many dollars remain each week?",
        (
            f"{name} works {_note(f'{hours} * {days}', worked)} hours a week.",
            f"That brings {_note(f'{worked} * {wage}', earned)} dollars.",
            f"After the rent {_note(f'{earned} - {rent}', earned - rent)} dollars remain.",
        ),
        str(earned - rent),
    )


def _travel(rng: random.Random) -> GoldSolution:
    name, other = rng.sample(_NAMES, 2)
    first, second = rng.randint(31, 79), rng.randint(12, 30)
    hours, more = rng.randint(2, 6), rng.randint(1, 5)
    one, two = first * hours, second * (hours + more)
    return GoldSolution(
        f"{name} drives {hours} hours at {first} miles an hour. {other} cycles {more} hours "
        f"longer, at {second} miles an hour. How many miles do both cover together?",
        (
            f"{name} covers {_note(f'{first} * {hours}', one)} miles.",
            f"{other} cycles for {_note(f'{hours} + {more}', hours + more)} hours.",
            f"{other} covers {_note(f'{second} * {hours + more}', two)} miles.",
            f"Together they cover {_note(f'{one} + {two}', one + two)} miles.",
        ),
        str(one + two),
    )


_PROBLEMS: tuple[Callable[[random.Random], GoldSolution], ...] = (
    _packs,
    _sharing,
    _wages,
    _travel,
)
