"""Wrong solutions whose first wrong step is known by construction.

A right solution's computations are found by its calculator notes; one is changed, and what
follows from it is computed again, through the later steps to the answer. Pure and seeded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from rfprm_training import TrainingError
from rfprm_training.arithmetic import NUMBER, evaluate, format_number, is_plausible, to_fraction
from rfprm_training.gsm8k import GoldSolution, strip_notes

_NOTE = re.compile(r"<<([^<>=]*)=([^<>]*)>>")
_DECIMAL = re.compile(r"\d\.\d")
_SWAPPED = {"+": "-", "-": "+", "*": "/", "/": "*"}


@dataclass(frozen=True)
class CorruptedSolution:
    """A wrong solution and the first step (from 0) at which it goes wrong."""

    question: str
    steps: tuple[str, ...]
    """Without calculator notes."""
    answer: str
    first_error: int
    kind: str


def corrupt(
    solution: GoldSolution, rng: random.Random, kind_weights: Mapping[str, float]
) -> CorruptedSolution | None:
    """One corruption, or None where none can be carried through.

    ``kind_weights`` says how often each kind (``wrong_result``, ``wrong_operand``,
    ``wrong_operator``, ``skipped_step``) is tried first; one with weight 0 never is. A corruption
    counts only when the answer changes, so the trajectory's label is wrong for certain.
    Raises :class:`TrainingError` for an unknown kind.
    """
    unknown = sorted(set(kind_weights) - set(CORRUPTIONS))
    if unknown:
        raise TrainingError(f"unknown kinds of error {unknown}, expected {sorted(CORRUPTIONS)}")
    for kind in _weighted_order(kind_weights, rng):
        places = list(range(len(solution.steps)))
        rng.shuffle(places)
        for place in places:
            corrupted = CORRUPTIONS[kind](solution, place, rng)
            if corrupted is not None:
                return replace(corrupted, kind=kind)
    return None


def _weighted_order(weights: Mapping[str, float], rng: random.Random) -> list[str]:
    """All kinds with a weight, drawn one after the other without replacement."""
    # Efraimidis and Spirakis: the largest u^(1/w) first is such a draw.
    keys = {kind: rng.random() ** (1 / weight) for kind, weight in weights.items() if weight > 0}
    return sorted(keys, key=lambda kind: -keys[kind])


def wrong_result(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """The computation stands as it was, its result is off."""
    note = _last_note(solution.steps[place])
    if note is None or (value := evaluate(note.group(1))) is None:
        return None
    return _carry_through(solution, place, note, note.group(1), rng.choice(_near_misses(value)))


def wrong_operand(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """Another number of the question, or an earlier result, where one operand should be."""
    note = _last_note(solution.steps[place])
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
    return _carry_through(solution, place, note, expression, evaluate(expression))


def wrong_operator(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """Adds where it should subtract, multiplies where it should divide, or the reverse."""
    note = _last_note(solution.steps[place])
    if note is None:
        return None
    signs = list(re.finditer(r"(?<=[\d.)])\s*([+\-*/])\s*(?=[\d.(])", note.group(1)))
    if not signs:
        return None
    sign = rng.choice(signs)
    start, end = sign.span(1)
    expression = note.group(1)[:start] + _SWAPPED[sign.group(1)] + note.group(1)[end:]
    return _carry_through(solution, place, note, expression, evaluate(expression))


def skipped_step(
    solution: GoldSolution, place: int, rng: random.Random
) -> CorruptedSolution | None:
    """A step is left out, and a later one uses one of its operands where its result belongs."""
    note = _last_note(solution.steps[place])
    if note is None or place + 1 >= len(solution.steps):
        return None
    result = to_fraction(note.group(2))
    operands = {to_fraction(match.group()) for match in NUMBER.finditer(note.group(1))}
    operands.discard(result)
    choices = sorted(value for value in operands if value is not None)
    if result is None or not choices:
        return None
    steps = _propagate(solution.steps[place + 1 :], {result: rng.choice(choices)})
    if steps is None:
        return None
    answer = _answer_after(solution, steps[-1:])
    changed = [i for i, step in enumerate(steps) if step != solution.steps[place + 1 + i]]
    if answer is None or not changed:
        return None
    kept = solution.steps[:place] + tuple(steps)
    return _corrupted(solution, kept, answer, place + changed[0])


CORRUPTIONS: dict[str, Callable[[GoldSolution, int, random.Random], CorruptedSolution | None]] = {
    "wrong_result": wrong_result,
    "wrong_operand": wrong_operand,
    "wrong_operator": wrong_operator,
    "skipped_step": skipped_step,
}


def _carry_through(
    solution: GoldSolution,
    place: int,
    note: re.Match[str],
    expression: str,
    value: Fraction | None,
) -> CorruptedSolution | None:
    """Replace one computation and its result, and all that follows from it."""
    old = to_fraction(note.group(2))
    if value is None or old is None or value == old or not is_plausible(value):
        return None
    step = _rewrite(solution.steps[place], note, expression, value)
    later = _propagate(solution.steps[place + 1 :], {old: value})
    if step is None or later is None:
        return None
    answer = _answer_after(solution, [step, *later][-1:])
    if answer is None:
        return None
    return _corrupted(solution, (*solution.steps[:place], step, *later), answer, place)


def _rewrite(step: str, note: re.Match[str], expression: str, value: Fraction) -> str | None:
    """The step with the note's computation and result replaced, in the note and in the prose."""
    before, after = step[: note.start()], step[note.end() :]
    if expression != note.group(1):
        before_new = _replace_in_prose(before, note.group(1), expression)
        if before_new is None:
            return None
        before = before_new
    result = format_number(value)
    spelled = NUMBER.match(after)
    if spelled is None or to_fraction(spelled.group()) != to_fraction(note.group(2)):
        return None
    rest = spelled.group()[len(spelled.group().rstrip(".,")) :] + after[spelled.end() :]
    return f"{before}<<{expression}={result}>>{result}{rest}"


def _replace_in_prose(prose: str, old: str, new: str) -> str | None:
    """Change the one number or sign by which two expressions differ, as the prose spells it."""
    old_tokens, new_tokens = _tokens(old), _tokens(new)
    changed = [i for i, (a, b) in enumerate(zip(old_tokens, new_tokens, strict=False)) if a != b]
    if len(old_tokens) != len(new_tokens) or len(changed) != 1:
        return None
    pattern = r"\s*[$€£%]?\s*".join(_spelling(token) for token in old_tokens)
    match = _last_match(pattern, prose)
    if match is None:
        return None
    start, end = match.span(changed[0] + 1)
    return prose[:start] + new_tokens[changed[0]] + prose[end:]


def _tokens(expression: str) -> list[str]:
    return re.findall(r"\d[\d,]*\.?\d*|\.\d+|[+\-*/()]", expression)


def _spelling(token: str) -> str:
    """One capturing group for each way in which solutions spell a token."""
    if token == "*":
        return r"([*x×])"
    if token == "/":
        return r"([/÷])"
    if token in "+-()":
        return f"([{re.escape(token)}–−])" if token == "-" else f"({re.escape(token)})"
    return f"({re.escape(token)})"


def _last_match(pattern: str, text: str) -> re.Match[str] | None:
    matches = list(re.finditer(pattern, text))
    return matches[-1] if matches else None


def _propagate(steps: tuple[str, ...], changes: dict[Fraction, Fraction]) -> list[str] | None:
    """Later steps with changed numbers put in and every computation done again."""
    changes = dict(changes)
    out = []
    for step in steps:
        rewritten = _recompute(step, changes)
        if rewritten is None:
            return None
        out.append(rewritten)
    return out


def _recompute(step: str, changes: dict[Fraction, Fraction]) -> str | None:
    """One step after ``changes`` of earlier numbers; its own changed results are added."""
    parts, position = [], 0
    for note in _NOTE.finditer(step):
        parts.append(_substitute(step[position : note.start()], changes))
        expression = _substitute(note.group(1), changes)
        old, value = to_fraction(note.group(2)), evaluate(expression)
        spelled = NUMBER.match(step, note.end())
        if old is None or value is None or spelled is None or not is_plausible(value):
            return None
        if to_fraction(spelled.group()) != old:
            return None
        if expression == note.group(1):
            parts.append(note.group() + spelled.group())
        else:
            tail = spelled.group()[len(spelled.group().rstrip(".,")) :]
            result = format_number(value)
            parts.append(f"<<{expression}={result}>>{result}{tail}")
            if value != old:
                changes[old] = value
        position = spelled.end()
    parts.append(_substitute(step[position:], changes))
    return "".join(parts)


def _substitute(text: str, changes: dict[Fraction, Fraction]) -> str:
    def changed(match: re.Match[str]) -> str:
        spelled = match.group()
        number = spelled.rstrip(".,")
        value = to_fraction(number)
        if value is None or value not in changes:
            return spelled
        return format_number(changes[value]) + spelled[len(number) :]

    return NUMBER.sub(changed, text)


def _answer_after(solution: GoldSolution, last_steps: list[str]) -> str | None:
    """The answer that the changed last step comes to; None where it is not a new one."""
    note = _last_note(last_steps[0]) if last_steps else None
    gold_note = _last_note(solution.steps[-1])
    if note is None or gold_note is None:
        return None
    right = to_fraction(solution.answer)
    if right is None or to_fraction(gold_note.group(2)) != right:
        return None  # the answer is not the last result, so what becomes of it is not known
    value = to_fraction(note.group(2))
    return None if value is None or value == right else note.group(2)


def _corrupted(
    solution: GoldSolution, steps: tuple[str, ...], answer: str, first_error: int
) -> CorruptedSolution | None:
    """None where a decimal fraction shows up among whole numbers: right solutions have none then,
    and a model would learn to look for the point instead of for the error."""
    plain = tuple(strip_notes(step) for step in steps)
    right = " ".join((solution.question, *map(strip_notes, solution.steps)))
    if _DECIMAL.search(" ".join(plain)) and not _DECIMAL.search(right):
        return None
    return CorruptedSolution(solution.question, plain, answer, first_error, kind="")


def _last_note(step: str) -> re.Match[str] | None:
    return _last_match(_NOTE.pattern, step)


def _numbers_before(solution: GoldSolution, place: int) -> set[Fraction]:
    text = " ".join((solution.question, *map(strip_notes, solution.steps[:place])))
    values = (to_fraction(match.group()) for match in NUMBER.finditer(text))
    return {value for value in values if value}


def _near_misses(value: Fraction) -> list[Fraction]:
    """Results as people get them wrong: off by a little, by a digit, or by a factor of ten."""
    step = Fraction(1) if abs(value) < 20 else Fraction(10)
    misses = [value + step, value - step, value * 10, value / 10, value + 2, value * 2]
    return [miss for miss in misses if miss != value and miss > 0] or [value + 1]
