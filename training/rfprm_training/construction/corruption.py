"""Wrong solutions whose first wrong step is known by construction.

Calculator notes mark the computations of a right solution. One is changed, and everything that
depends on it is recomputed, through the later steps to the answer. Pure and seeded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

from rfprm_runtime.answers.spelled_numbers import NUMBER, to_fraction
from rfprm_training import TrainingError
from rfprm_training.arithmetic import (
    evaluate,
    evaluate_from_left_to_right,
    format_number,
    misreadings,
    near_misses,
)
from rfprm_training.construction.propagation import (
    NOTE,
    CorruptedSolution,
    answer_after,
    carry_through,
    corrupted,
    last_note,
    propagate,
)
from rfprm_training.gsm8k import GoldSolution, strip_notes

_MOST_PLACES, _MOST_STEPS = 64, 8_000
"""To try for each kind of error, and steps to read for that: each try reads the whole solution."""
_SWAPPED = {"+": "-", "-": "+", "*": "/", "/": "*"}


def corrupt(
    solution: GoldSolution, rng: random.Random, kind_weights: Mapping[str, float]
) -> CorruptedSolution | None:
    """A corrupted ``solution``, or None if no corruption can be carried through.

    ``kind_weights`` says how often each kind of :data:`CORRUPTIONS` is tried first; a kind with
    weight 0, or without one, is never tried. A corruption must change the answer, so that the
    trajectory is certainly wrong. Raises :class:`TrainingError` for an unknown kind.
    """
    unknown = sorted(set(kind_weights) - set(CORRUPTIONS))
    if unknown:
        raise TrainingError(f"unknown kinds of error {unknown}, expected {sorted(CORRUPTIONS)}")
    for kind in _weighted_order(kind_weights, rng):
        places = list(range(len(solution.steps)))
        rng.shuffle(places)
        most = max(1, min(_MOST_PLACES, _MOST_STEPS // max(1, len(places))))
        for place in places[:most]:
            corrupted = CORRUPTIONS[kind](solution, place, rng)
            if corrupted is not None:
                return replace(corrupted, kind=kind)
    return None


def _weighted_order(weights: Mapping[str, float], rng: random.Random) -> list[str]:
    """All kinds with a weight, in an order drawn by weight without replacement."""
    # Efraimidis and Spirakis: sorting by u^(1/w), largest first, is such a draw.
    keys = {kind: rng.random() ** (1 / weight) for kind, weight in weights.items() if weight > 0}
    return sorted(keys, key=lambda kind: -keys[kind])


def wrong_result(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """The computation is unchanged, its result is wrong."""
    note = last_note(solution.steps[place])
    if note is None or (value := evaluate(note.group(1))) is None:
        return None
    return carry_through(solution, place, note, note.group(1), rng.choice(near_misses(value)))


def wrong_operand(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """One operand is replaced by another number of the question, or by an earlier result."""
    note = last_note(solution.steps[place])
    if note is None:
        return None
    operands = list(NUMBER.finditer(note.group(1)))
    known = _numbers_before(solution, place)
    if not operands:
        return None
    old = rng.choice(operands)
    others = sorted(known - {to_fraction(match.group()) for match in operands})
    if not others:
        return None
    new = format_number(rng.choice(others))
    expression = note.group(1)[: old.start()] + new + note.group(1)[old.end() :]
    return carry_through(solution, place, note, expression, evaluate(expression))


def wrong_operator(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """Adds instead of subtracting, multiplies instead of dividing, or the reverse."""
    note = last_note(solution.steps[place])
    if note is None:
        return None
    signs = list(re.finditer(r"(?<=[\d.)])\s*([+\-*/])\s*(?=[\d.(])", note.group(1)))
    if not signs:
        return None
    sign = rng.choice(signs)
    start, end = sign.span(1)
    expression = note.group(1)[:start] + _SWAPPED[sign.group(1)] + note.group(1)[end:]
    return carry_through(solution, place, note, expression, evaluate(expression))


def skipped_step(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """A step is missing, and a later one uses one of its operands in place of its result."""
    note = last_note(solution.steps[place])
    if note is None or place + 1 >= len(solution.steps):
        return None
    result = to_fraction(note.group(2))
    operands = {to_fraction(match.group()) for match in NUMBER.finditer(note.group(1))}
    operands.discard(result)
    choices = sorted(value for value in operands if value is not None)
    if result is None or not choices:
        return None
    steps = propagate(solution.steps[place + 1 :], {result: rng.choice(choices)})
    if steps is None:
        return None
    answer = answer_after(solution, steps[-1:])
    changed = [i for i, step in enumerate(steps) if step != solution.steps[place + 1 + i]]
    if answer is None or not changed:
        return None
    kept = solution.steps[:place] + tuple(steps)
    return corrupted(solution, kept, answer, place + changed[0])


def misread_quantity(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """A quantity of the question is copied wrong: digits swapped, or one digit off by one."""
    note = last_note(solution.steps[place])
    if note is None:
        return None
    given = {to_fraction(match.group()) for match in NUMBER.finditer(solution.question)}
    known = _numbers_before(solution, place)
    operands = [
        match
        for match in NUMBER.finditer(note.group(1))
        if to_fraction(match.group()) in given and len(match.group()) > 1
    ]
    if not operands:
        return None
    old = rng.choice(operands)
    others = sorted(misreadings(old.group()) - known)
    if not others:
        return None
    new = format_number(rng.choice(others))
    expression = note.group(1)[: old.start()] + new + note.group(1)[old.end() :]
    return carry_through(solution, place, note, expression, evaluate(expression))


def contradiction(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """An earlier result is used with another value."""
    note = last_note(solution.steps[place])
    if note is None:
        return None
    found = {
        to_fraction(earlier.group(2))
        for step in solution.steps[:place]
        for earlier in NOTE.finditer(step)
    }
    operands = [
        match for match in NUMBER.finditer(note.group(1)) if to_fraction(match.group()) in found
    ]
    if not operands:
        return None
    old = rng.choice(operands)
    value = to_fraction(old.group())
    others = [] if value is None else set(near_misses(value)) - _numbers_before(solution, place)
    if not others:
        return None
    new = format_number(rng.choice(sorted(others)))
    expression = note.group(1)[: old.start()] + new + note.group(1)[old.end() :]
    return carry_through(solution, place, note, expression, evaluate(expression))


def wrong_order(solution: GoldSolution, place: int, rng: random.Random) -> CorruptedSolution | None:
    """The computation is unchanged; its operations are done in the wrong order."""
    note = last_note(solution.steps[place])
    if note is None:
        return None
    right = evaluate(note.group(1))
    plain = note.group(1).replace("(", "").replace(")", "")
    values = {evaluate(plain), evaluate_from_left_to_right(plain)} - {right, None}
    if not values:
        return None
    value = rng.choice(sorted(value for value in values if value is not None))
    return carry_through(solution, place, note, note.group(1), value)


def unit_slip(solution: GoldSolution, place: int, rng: random.Random) -> CorruptedSolution | None:
    """A conversion uses another constant: 100 minutes to the hour, 10 to the dozen."""
    note = last_note(solution.steps[place])
    if note is None:
        return None
    given = {to_fraction(match.group()) for match in NUMBER.finditer(solution.question)}
    constants = [
        match
        for match in NUMBER.finditer(note.group(1))
        if match.group() in _CONVERSIONS and to_fraction(match.group()) not in given
    ]
    if not constants:
        return None
    old = rng.choice(constants)
    new = rng.choice(_CONVERSIONS[old.group()])
    expression = note.group(1)[: old.start()] + new + note.group(1)[old.end() :]
    return carry_through(solution, place, note, expression, evaluate(expression))


_CONVERSIONS = {
    "60": ("100", "30", "24", "12"),
    "100": ("10", "1000", "60"),
    "12": ("10", "24", "52"),
    "7": ("5", "30", "10"),
    "24": ("12", "60", "20"),
    "30": ("7", "12", "60"),
    "52": ("12", "50", "7"),
    "365": ("30", "52", "12"),
    "1000": ("100", "10"),
    "16": ("12", "10", "8"),
    "3": ("12", "2", "10"),
    "4": ("12", "7", "10"),
    "2": ("3", "4"),
}
"""Constants that a solution uses without the question naming them (60 minutes, 12 months, two
people in a couple), and what people use by mistake."""

CORRUPTIONS: dict[str, Callable[[GoldSolution, int, random.Random], CorruptedSolution | None]] = {
    "wrong_result": wrong_result,
    "wrong_operand": wrong_operand,
    "wrong_operator": wrong_operator,
    "skipped_step": skipped_step,
    "misread_quantity": misread_quantity,
    "contradiction": contradiction,
    "wrong_order": wrong_order,
    "unit_slip": unit_slip,
}


def _numbers_before(solution: GoldSolution, place: int) -> set[Fraction]:
    text = " ".join((solution.question, *map(strip_notes, solution.steps[:place])))
    values = (to_fraction(match.group()) for match in NUMBER.finditer(text))
    return {value for value in values if value}
