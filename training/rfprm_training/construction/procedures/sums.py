"""Problems of pure arithmetic: a chain of operations on one number, one per step."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rfprm_training.arithmetic import format_number, is_plausible, near_misses
from rfprm_training.construction.procedures.machine import Move, Problem, State

_SIGNS = {"add": "+", "take away": "-", "multiply": "*", "divide": "/"}
_OPPOSITE = {
    "add": "take away",
    "take away": "add",
    "multiply": "divide",
    "divide": "multiply",
    "percent": "divide",
}
_ASKED = {
    "add": ("Add {n}.", "Increase it by {n}.", "Put {n} more to it."),
    "take away": ("Subtract {n}.", "Take away {n}.", "Decrease it by {n}."),
    "multiply": ("Multiply by {n}.", "Take it {n} times."),
    "divide": ("Divide by {n}.", "Share it among {n}.", "Split it into {n} equal parts."),
    "percent": ("Take {n}% of it.", "Keep {n} percent."),
}
_SAID = {
    "equation": "{sum} = {result}",
    "sentence": "This gives {sum} = {result}.",
    "is": "{sum} is {result}.",
    "money": "That makes ${sum} = ${result}.",
    "close": "Now there are {close}={result}.",
    "words": "The result is {result}, since {sum} = {result}.",
}


@dataclass(frozen=True)
class _Operation:
    kind: str
    number: Fraction

    def result(self, value: Fraction) -> Fraction:
        if self.kind == "add":
            return value + self.number
        if self.kind == "take away":
            return value - self.number
        if self.kind == "multiply":
            return value * self.number
        if self.kind == "divide":
            return value / self.number
        return value * self.number / 100

    def spelled(self, value: Fraction, percent: str) -> str:
        number = format_number(self.number)
        if self.kind == "percent":
            share = format_number(self.number / 100)
            return {
                "share": f"{format_number(value)} * {share}",
                "bare": f"{format_number(value)} * {share.removeprefix('0')}",
                "first": f"{share} * {format_number(value)}",
                "hundredths": f"{format_number(value)} * {number}/100",
            }[percent]
        return f"{format_number(value)} {_SIGNS[self.kind]} {number}"


def sums(rng: random.Random) -> Problem:
    """What a number becomes after several operations."""
    start = value = _number(rng)
    operations: list[_Operation] = []
    while len(operations) < 3 or (len(operations) < 7 and rng.random() < 0.75):
        operation = _operation(value, rng)
        value = operation.result(value)
        operations.append(operation)
    asked = " ".join(
        rng.choice(_ASKED[o.kind]).format(n=format_number(o.number)) for o in operations
    )
    said = _SAID[rng.choice(sorted(_SAID))]
    percent = rng.choice(("share", "bare", "first", "hundredths"))

    def words(operation: _Operation, value: Fraction, result: Fraction) -> str:
        spelled = operation.spelled(value, percent)
        return said.format(
            sum=spelled, close=spelled.replace(" ", ""), result=format_number(result)
        )

    def step(operation: _Operation) -> Callable[[State], Move | None]:
        def move(value: State) -> Move | None:
            result = operation.result(value)
            return (result, words(operation, value, result)) if is_plausible(result) else None

        return move

    def slip(operation: _Operation, others: list[_Operation]) -> Callable[[State], Move | None]:
        def move(value: State) -> Move | None:
            kind = rng.random()
            if kind < 0.1:  # another number of the question
                done = _Operation(operation.kind, rng.choice(others).number)
            elif kind < 0.2:
                done = _Operation(_OPPOSITE[operation.kind], operation.number)
            else:
                done = operation
            result = done.result(value)
            if done == operation:
                result = rng.choice(_wrong_results(operation, value))
            return (result, words(done, value, result)) if is_plausible(result) else None

        return move

    return Problem(
        f"Start with {format_number(start)}. {asked} What is the result?",
        start,
        [step(operation) for operation in operations],
        [slip(o, [p for p in operations if p is not o]) for o in operations],
        lambda value: f"The answer is {format_number(value)}.",
    )


def _wrong_results(operation: _Operation, value: Fraction) -> list[Fraction]:
    """Wrong results as people make them, including neighbouring entries of the times table."""
    right = operation.result(value)
    misses = near_misses(right)
    for off in (-1, 1):
        if operation.kind == "multiply":
            misses.append(value * (operation.number + off))
            misses.append((value + off) * operation.number)
        elif operation.number + off > 0:
            misses.append(_Operation(operation.kind, operation.number + off).result(value))
    return [miss for miss in misses if miss != right and is_plausible(miss)] or [right + 1]


def _operation(value: Fraction, rng: random.Random) -> _Operation:
    """A random operation with a plausible result."""
    while True:
        kind = rng.choice(sorted(_ASKED))
        if kind == "percent":
            number = Fraction(rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 90)))
        elif kind in ("multiply", "divide"):
            number = Fraction(rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 24, 30, 52, 100)))
        else:
            number = _number(rng)
        operation = _Operation(kind, number)
        result = operation.result(value)
        # Numbers as large as in word problems; larger ones would take over the chain.
        if is_plausible(result) and result < 20_000:
            return operation


def _number(rng: random.Random) -> Fraction:
    kind = rng.random()
    if kind < 0.45:
        return Fraction(rng.randint(2, 20))
    if kind < 0.75:
        return Fraction(rng.randint(11, 100))
    if kind < 0.85:
        return Fraction(rng.randint(1, 20) * rng.choice((10, 50, 100)))
    if kind < 0.92:
        return Fraction(rng.randint(101, 1000))
    return Fraction(rng.randint(1, 200), rng.choice((2, 4, 10, 20)))
