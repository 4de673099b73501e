"""Problems about people: who holds what, and who tells the truth."""

from __future__ import annotations

import random
from collections.abc import Callable

from rfprm_training.construction.procedures.machine import Move, Problem, State

_NAMES = ("Alice", "Bob", "Claire", "Dave", "Eve", "Fred", "Gertrude", "Hugo", "Ines", "Jack")
_HELD = {
    "ball": ("green", "blue", "yellow", "red", "brown", "pink", "white", "black"),
    "present": ("large", "small", "square", "round", "flat", "heavy", "light", "tall"),
    "book": ("first", "old", "new", "thick", "thin", "torn", "long", "short"),
    "card": ("ace", "king", "queen", "seven", "ten", "two", "nine", "five"),
}


def tracking(rng: random.Random) -> Problem:
    """Who holds what after some swaps."""
    count = rng.randint(3, 6)
    names = sorted(rng.sample(_NAMES, count))
    thing = rng.choice(sorted(_HELD))
    start = tuple(rng.sample(_HELD[thing], count))
    pairs = [tuple(rng.sample(range(count), 2)) for _ in range(rng.randint(3, 5))]
    asked = rng.randrange(count)
    shorten = rng.random() < 0.4
    called = [name[0] if shorten else name for name in names]

    def listed(state: State) -> str:
        return ", ".join(f"{name}: {item}" for name, item in zip(called, state, strict=True))

    def swapped(state: State, one: int, other: int) -> State:
        after = list(state)
        after[one], after[other] = after[other], after[one]
        return tuple(after)

    def step(pair: tuple[int, ...]) -> Callable[[State], Move]:
        said = f"{names[pair[0]]} and {names[pair[1]]} swap: "
        return lambda state: ((after := swapped(state, *pair)), said + listed(after))

    def slip(pair: tuple[int, ...]) -> Callable[[State], Move]:
        said = f"{names[pair[0]]} and {names[pair[1]]} swap: "
        third = rng.choice([i for i in range(count) if i not in pair])
        kind = rng.randrange(3)

        def move(state: State) -> Move:
            if kind == 0:  # forgotten
                after = state
            elif kind == 1:  # with somebody else
                after = swapped(state, pair[0], third)
            else:  # one gives but gets nothing
                after = list(state)
                after[pair[0]] = state[pair[1]]
                after = tuple(after)
            return after, said + listed(after)

        return move

    opening = "At the start: " + listed(start)
    holds = ", ".join(f"{n} has the {item} {thing}" for n, item in zip(names, start, strict=True))
    told = ". Then, ".join(f"{names[a]} and {names[b]} swap" for a, b in pairs)
    options = ", ".join(f"({chr(65 + i)}) {item} {thing}" for i, item in enumerate(start))
    return Problem(
        f"{', '.join(names)} each hold a {thing}. At the start, {holds}. First, {told}. At the "
        f"end, which {thing} does {names[asked]} have?\nOptions: {options}",
        start,
        [lambda state: (state, opening), *map(step, pairs)],
        [lambda state: None, *map(slip, pairs)],
        lambda state: (
            f"At the end {names[asked]} has the {state[asked]} {thing}. "
            f"So the answer is ({chr(65 + start.index(state[asked]))})."
        ),
    )


def liars(rng: random.Random, *, people: tuple[int, int] = (4, 7)) -> Problem:
    """Who tells the truth, when each speaks about the person before; ``people``: the fewest and
    the most."""
    names = rng.sample(_NAMES, rng.randint(*people))
    truthful = rng.random() < 0.5
    claims = [rng.random() < 0.5 for _ in names[1:]]
    verb = {True: "tells the truth", False: "lies"}

    def step(index: int, flipped: bool) -> Callable[[State], Move]:
        before, name, claim = names[index], names[index + 1], claims[index]

        def move(state: State) -> Move:
            known, after = state, (state == claim) != flipped
            text = (
                f"({index + 2}) {name} says {before} {verb[claim]}. Since we know from "
                f"({index + 1}) that {before} {verb[known]}, {name} {verb[after]}."
            )
            return after, text

        return move

    first = f"(1) {names[0]} {verb[truthful]}."
    told = " ".join(
        f"{name} says {before} {verb[claim]}."
        for before, name, claim in zip(names, names[1:], claims, strict=False)
    )
    wrong_first = f"(1) {names[0]} {verb[not truthful]}."
    places = range(len(claims))
    return Problem(
        f"{first[4:]} {told} Does {names[-1]} tell the truth?",
        truthful,
        [lambda state: (state, first), *(step(i, False) for i in places)],
        [lambda state: (not state, wrong_first), *(step(i, True) for i in places)],
        lambda state: f"{names[-1]} {verb[state]}. So the answer is {'yes' if state else 'no'}.",
    )
