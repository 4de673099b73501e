"""Problems with symbols: the value of an expression, and the brackets that close a sequence."""

from __future__ import annotations

import random
from collections.abc import Callable

from rfprm_training.arithmetic import evaluate
from rfprm_training.construction.procedures.machine import Move, Problem, State


def expression(rng: random.Random) -> Problem:
    """An expression with several brackets, evaluated one bracket at a time."""
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


_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


def brackets(rng: random.Random) -> Problem:
    """The brackets that close a sequence, found with a stack."""
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

    def described(number: int, sign: str, state: State) -> str:
        return f"{number}: {sign} ; stack: {' '.join(state) or 'empty'}"

    def moved(state: State, sign: str) -> State:
        return (*state, sign) if sign in _CLOSING else state[:-1]

    def step(number: int, sign: str) -> Callable[[State], Move]:
        return lambda state: ((after := moved(state, sign)), described(number, sign, after))

    def slip(number: int, sign: str) -> Callable[[State], Move]:
        kind, other = rng.randrange(3), rng.choice(sorted(_CLOSING))

        def move(state: State) -> Move:
            if kind == 0:  # skipped
                after = state
            elif kind == 1 and state:  # another bracket on top
                after = (*moved(state, sign)[:-1], other)
            else:
                after = moved(moved(state, sign), sign)
            return after, described(number, sign, after)

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
