"""Problems other than sums, with traces whose first wrong step is known: following who holds what,
evaluating expressions, sorting words, closing brackets, telling liars from the truthful.

A problem is a machine: a state, a step that moves it on, a slip that moves it on wrongly. What
comes after a slip is right by the wrong state, as in the traces of a model. Pure and seeded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_runtime.types import Trajectory
from rfprm_training.arithmetic import evaluate
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


def procedure_examples(kind: str, group: str, rng: random.Random, *, errors: int) -> list[Example]:
    """A right trace and up to ``errors`` wrong ones to one problem of ``kind``."""
    problem = PROCEDURES[kind](rng)
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


_NAMES = ("Alice", "Bob", "Claire", "Dave", "Eve", "Fred", "Gertrude", "Hugo", "Ines", "Jack")
_HELD = {
    "ball": ("green", "blue", "yellow", "red", "brown", "pink", "white", "black"),
    "present": ("large", "small", "square", "round", "flat", "heavy", "light", "tall"),
    "book": ("first", "old", "new", "thick", "thin", "torn", "long", "short"),
    "card": ("ace", "king", "queen", "seven", "ten", "two", "nine", "five"),
}


def tracking(rng: random.Random) -> Problem:
    """Who holds what after some have swapped."""
    count = rng.randint(3, 6)
    people = sorted(rng.sample(_NAMES, count))
    thing = rng.choice(sorted(_HELD))
    start = tuple(rng.sample(_HELD[thing], count))
    swaps = [tuple(rng.sample(range(count), 2)) for _ in range(rng.randint(3, 5))]
    asked = rng.randrange(count)
    shorten = rng.random() < 0.4
    called = [name[0] if shorten else name for name in people]

    def listed(state: State) -> str:
        return ", ".join(f"{name}: {item}" for name, item in zip(called, state, strict=True))

    def swapped(state: State, one: int, other: int) -> State:
        after = list(state)
        after[one], after[other] = after[other], after[one]
        return tuple(after)

    def step(pair: tuple[int, ...]) -> Callable[[State], Move]:
        said = f"{people[pair[0]]} and {people[pair[1]]} swap: "
        return lambda state: ((after := swapped(state, *pair)), said + listed(after))

    def slip(pair: tuple[int, ...]) -> Callable[[State], Move]:
        said = f"{people[pair[0]]} and {people[pair[1]]} swap: "
        third = rng.choice([i for i in range(count) if i not in pair])
        kind = rng.randrange(3)

        def move(state: State) -> Move:
            if kind == 0:  # forgotten
                after = state
            elif kind == 1:  # with somebody else
                after = swapped(state, pair[0], third)
            else:  # one gives and gets nothing
                after = list(state)
                after[pair[0]] = state[pair[1]]
                after = tuple(after)
            return after, said + listed(after)

        return move

    opening = "At the start: " + listed(start)
    holds = ", ".join(f"{n} has the {item} {thing}" for n, item in zip(people, start, strict=True))
    told = ". Then, ".join(f"{people[a]} and {people[b]} swap" for a, b in swaps)
    options = ", ".join(f"({chr(65 + i)}) {item} {thing}" for i, item in enumerate(start))
    return Problem(
        f"{', '.join(people)} each hold a {thing}. At the start, {holds}. First, {told}. At the "
        f"end, which {thing} does {people[asked]} have?\nOptions: {options}",
        start,
        [lambda state: (state, opening), *map(step, swaps)],
        [lambda state: None, *map(slip, swaps)],
        lambda state: (
            f"At the end {people[asked]} has the {state[asked]} {thing}. "
            f"So the answer is ({chr(65 + start.index(state[asked]))})."
        ),
    )


def expression(rng: random.Random) -> Problem:
    """An expression of several brackets, a bracket at a time."""
    brackets = [_bracket(rng) for _ in range(rng.randint(2, 4))]
    signs = [rng.choice("+-*") for _ in brackets[1:]]
    letters = "ABCD"[: len(brackets)]
    whole = brackets[0][0] + "".join(
        f" {s} {b[0]}" for s, b in zip(signs, brackets[1:], strict=True)
    )
    in_letters = letters[0] + "".join(f" {s} {x}" for s, x in zip(signs, letters[1:], strict=True))

    def opening(state: State) -> Move:
        where = " and ".join(f"{x} = {b[0]}" for x, b in zip(letters, brackets, strict=True))
        return state, f'This can be written as "{in_letters}", where {where}.'

    def step(index: int, slipping: bool) -> Callable[[State], Move]:
        text, products, value = brackets[index]
        off = value + rng.choice((-10, -2, -1, 1, 2, 10)) if rng.random() < 0.6 else -value

        def move(state: State) -> Move:
            result = off if slipping else value
            between = f" = {products}" if products != text else ""
            return (
                *state,
                result,
            ), f"Let's calculate {letters[index]} = {text}{between} = {result}."

        return move

    def put_in(state: State) -> str:
        numbers = [f"({value})" if value < 0 else str(value) for value in state]
        return numbers[0] + "".join(f" {s} {n}" for s, n in zip(signs, numbers[1:], strict=True))

    def total(state: State) -> Move:
        value = _value(put_in(state))
        return value, f"Then the final equation is {in_letters} = {put_in(state)} = {value}."

    error = rng.choice((-10, -1, 1, 2, 10))

    def wrong_total(state: State) -> Move:
        value = _value(put_in(state)) + error
        return value, f"Then the final equation is {in_letters} = {put_in(state)} = {value}."

    places = range(len(brackets))
    return Problem(
        f"{whole} =",
        (),
        [opening, *(step(i, False) for i in places), total],
        [lambda state: None, *(step(i, True) for i in places), wrong_total],
        lambda value: f"So the answer is {value}.",
    )


def _value(text: str) -> int:
    value = evaluate(text)
    assert value is not None
    return int(value)


def _bracket(rng: random.Random) -> tuple[str, str, int]:
    """``(4 + 7 * -2)``, the same with its products done, and its value."""
    terms, done = [], []
    for _ in range(rng.randint(2, 3)):
        factors = [rng.randint(-9, 9) or 5 for _ in range(rng.choice((1, 1, 2)))]
        terms.append(" * ".join(map(str, factors)))
        done.append(factors[0] * (factors[1] if len(factors) > 1 else 1))
    signs = [rng.choice("+-") for _ in terms[1:]]
    text = (
        "(" + terms[0] + "".join(f" {s} {t}" for s, t in zip(signs, terms[1:], strict=True)) + ")"
    )
    short = (
        "("
        + str(done[0])
        + "".join(f" {s} {d}" for s, d in zip(signs, done[1:], strict=True))
        + ")"
    )
    value = done[0] + sum(d if s == "+" else -d for s, d in zip(signs, done[1:], strict=True))
    return text, short, value


_WORDS = """
    apple anchor arrow basket beetle bridge butter candle carpet castle cherry circle copper
    cradle dagger desert dinner donkey eagle engine escape fabric falcon feather forest fossil
    garden ginger glacier hammer harbor helmet hollow island jacket jungle kettle ladder lantern
    lemon linen magnet marble meadow mirror needle nephew oxygen oyster paddle parcel pencil
    pepper pillow planet quarry rabbit ribbon river rocket saddle salmon shadow silver spider
    stable sugar summer tablet temple thunder ticket tunnel turtle umbrella valley velvet violin
    walnut weasel willow window winter wisdom yellow zebra zipper
""".split()  # noqa: SIM905


def sorting(rng: random.Random) -> Problem:
    """Words in the order of the alphabet: by first letters, then the ties."""
    words = rng.sample(_WORDS, rng.randint(4, 9))
    chosen = rng.choice(words)

    def letters(changed: str | None = None) -> str:
        parts = []
        for word in words:
            number = ord(word[0]) - 96
            number += rng.choice((-3, -1, 2)) if word == changed else 0
            parts.append(f'"{word}": "{word[0]}" ({number}).')
        return "First letters: " + " ".join(parts)

    right, wrong = letters(), letters(chosen)
    ordered = sorted(words, key=lambda word: (word[0], words.index(word)))

    def grouped(state: State) -> str:
        found: dict[str, list[str]] = {}
        for word in state:
            found.setdefault(word[0], []).append(f'"{word}"')
        parts = [
            f"({ord(x) - 96}) " + (w[0] if len(w) == 1 else "[" + " ? ".join(w) + "]")
            for x, w in found.items()
        ]
        return "We now have: " + " < ".join(parts) + "."

    def out_of_order(state: State) -> State | None:
        options = [i for i in range(len(state) - 1) if state[i][0] != state[i + 1][0]]
        return _exchanged(state, rng.choice(options)) if options else None

    def ties(state: State) -> Move:
        # Neighbours that begin alike are put in order; what was misplaced before stays so.
        after: list[str] = []
        for word in state:
            place = len(after)
            while place and after[place - 1][0] == word[0] and after[place - 1] > word:
                place -= 1
            after.insert(place, word)
        return tuple(after), "Hence, we have " + " < ".join(f'"{w}"' for w in after) + "."

    def wrong_ties(state: State) -> Move:
        after = _exchanged(ties(state)[0], rng.randrange(len(state) - 1))
        return after, "Hence, we have " + " < ".join(f'"{w}"' for w in after) + "."

    def wrong_groups(state: State) -> Move | None:
        after = out_of_order(tuple(ordered))
        return None if after is None else (after, grouped(after))

    return Problem(
        "Sort the following words alphabetically: " + " ".join(words),
        tuple(words),
        [lambda s: (s, right), lambda s: (tuple(ordered), grouped(ordered)), ties],
        [lambda s: (s, wrong), wrong_groups, wrong_ties],
        lambda state: "I have now sorted all the words. The answer is " + " ".join(state) + ".",
    )


def _exchanged(state: State, place: int) -> State:
    return (*state[:place], state[place + 1], state[place], *state[place + 2 :])


_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def brackets(rng: random.Random) -> Problem:
    """The brackets that close a sequence, by a stack."""
    sequence: list[str] = []
    stack: list[str] = []
    for _ in range(rng.randint(5, 12)):
        if stack and rng.random() < 0.4:
            sequence.append(_CLOSING[stack.pop()])
        else:
            stack.append(rng.choice(sorted(_CLOSING)))
            sequence.append(stack[-1])
    if not stack:
        sequence.append("[")

    def said(number: int, sign: str, state: State) -> str:
        return f"{number}: {sign} ; stack: {' '.join(state) or 'empty'}"

    def moved(state: State, sign: str) -> State:
        return (*state, sign) if sign in _CLOSING else state[:-1]

    def step(number: int, sign: str) -> Callable[[State], Move]:
        return lambda state: ((after := moved(state, sign)), said(number, sign, after))

    def slip(number: int, sign: str) -> Callable[[State], Move]:
        kind, other = rng.randrange(3), rng.choice(sorted(_CLOSING))

        def move(state: State) -> Move:
            if kind == 0:  # overlooked
                after = state
            elif kind == 1 and state:  # another bracket on top
                after = (*moved(state, sign)[:-1], other)
            else:
                after = moved(moved(state, sign), sign)
            return after, said(number, sign, after)

        return move

    numbered = list(enumerate(sequence, start=1))
    return Problem(
        "Complete the rest of the sequence, making sure that the brackets are closed properly. "
        "Input: " + " ".join(sequence),
        (),
        [step(*each) for each in numbered],
        [slip(*each) for each in numbered],
        lambda state: (
            "So we need to close what is left on the stack. The answer is "
            + (" ".join(_CLOSING[sign] for sign in reversed(state)) or "nothing")
            + "."
        ),
    )


def liars(rng: random.Random) -> Problem:
    """Who tells the truth, if each speaks of the one before."""
    people = rng.sample(_NAMES, rng.randint(4, 7))
    truthful = rng.random() < 0.5
    claims = [rng.random() < 0.5 for _ in people[1:]]
    verb = {True: "tells the truth", False: "lies"}

    def step(index: int, flipped: bool) -> Callable[[State], Move]:
        before, name, claim = people[index], people[index + 1], claims[index]

        def move(state: State) -> Move:
            known, after = state, (state == claim) != flipped
            text = (
                f"({index + 2}) {name} says {before} {verb[claim]}. Since we know from "
                f"({index + 1}) that {before} {verb[known]}, {name} {verb[after]}."
            )
            return after, text

        return move

    first = f"(1) {people[0]} {verb[truthful]}."
    told = " ".join(
        f"{name} says {before} {verb[claim]}."
        for before, name, claim in zip(people, people[1:], claims, strict=False)
    )
    wrong_first = f"(1) {people[0]} {verb[not truthful]}."
    places = range(len(claims))
    return Problem(
        f"{first[4:]} {told} Does {people[-1]} tell the truth?",
        truthful,
        [lambda state: (state, first), *(step(i, False) for i in places)],
        [lambda state: (not state, wrong_first), *(step(i, True) for i in places)],
        lambda state: f"{people[-1]} {verb[state]}. So the answer is {'yes' if state else 'no'}.",
    )


PROCEDURES: dict[str, Callable[[random.Random], Problem]] = {
    "tracking": tracking,
    "expression": expression,
    "sorting": sorting,
    "brackets": brackets,
    "liars": liars,
}
