"""Recomputes the rest of a solution after one changed computation.

Calculator notes (``<<48/2=24>>``) mark the computations of a right solution. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rfprm_runtime.answers.spelled_numbers import NUMBER, to_fraction
from rfprm_training.arithmetic import evaluate, format_number, is_plausible
from rfprm_training.gsm8k import GoldSolution, strip_notes

NOTE = re.compile(r"<<([^<>=]*)=([^<>]*)>>")
_DECIMAL = re.compile(r"\d\.\d")
_MOST_TOKENS = 40
"""Of a computation that is changed."""


@dataclass(frozen=True)
class CorruptedSolution:
    """A wrong solution and the index of its first wrong step."""

    question: str
    steps: tuple[str, ...]
    """Without calculator notes."""
    answer: str
    first_error: int
    kind: str


def carry_through(
    solution: GoldSolution,
    place: int,
    note: re.Match[str],
    expression: str,
    value: Fraction | None,
) -> CorruptedSolution | None:
    """Replace one computation and its result, and recompute everything that depends on it."""
    old = to_fraction(note.group(2))
    if value is None or old is None or value == old or not is_plausible(value):
        return None
    step = _rewrite(solution.steps[place], note, expression, value)
    later = propagate(solution.steps[place + 1 :], {old: value})
    if step is None or later is None:
        return None
    answer = answer_after(solution, [step, *later][-1:])
    if answer is None:
        return None
    return corrupted(solution, (*solution.steps[:place], step, *later), answer, place)


def _rewrite(step: str, note: re.Match[str], expression: str, value: Fraction) -> str | None:
    """The step with the note's computation and result replaced, in the note and in the prose."""
    before, after = step[: note.start()], step[note.end() :]
    if expression != note.group(1):
        before_new = _replace_in_prose(before, note.group(1), expression)
        if before_new is None:
            return None
        before = before_new
    result, old = format_number(value), to_fraction(note.group(2))
    spelled = NUMBER.match(after)
    if spelled is None or to_fraction(spelled.group()) != old:
        return None
    if old not in {to_fraction(token) for token in _tokens(f"{expression} {note.group(1)}")}:
        before = _announced_otherwise(before, old, result)
    return f"{before}<<{expression}={result}>>{result}{after[spelled.end() :]}"


def _announced_otherwise(prose: str, old: Fraction | None, result: str) -> str:
    """The sentence before a computation, with the result it announces replaced ("There are 960
    pages because 80 x 12 = 960"); the old result would give the change away."""
    if "<<" in prose:  # the number may be the result of an earlier computation
        return prose

    def replaced(match: re.Match[str]) -> str:
        number = match.group()
        if to_fraction(number) != old:
            return number
        return result

    return NUMBER.sub(replaced, prose)


def _replace_in_prose(prose: str, old: str, new: str) -> str | None:
    """Change the one number or sign in which two expressions differ, as the prose writes it."""
    old_tokens, new_tokens = _tokens(old), _tokens(new)
    changed = [i for i, (a, b) in enumerate(zip(old_tokens, new_tokens, strict=False)) if a != b]
    if len(old_tokens) != len(new_tokens) or len(changed) != 1 or len(old_tokens) > _MOST_TOKENS:
        return None
    pattern = r"\s*(?:[$€£%]\s*)?".join(_spelling(token) for token in old_tokens)
    match = _last_match(pattern, prose)
    if match is None:
        return None
    start, end = match.span(changed[0] + 1)
    return prose[:start] + new_tokens[changed[0]] + prose[end:]


def _tokens(expression: str) -> list[str]:
    return re.findall(r"\d[\d,]*\.?\d*|\.\d+|[+\-*/()]", expression)


def _spelling(token: str) -> str:
    """A pattern with one capturing group that matches the token as solutions write it."""
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


def propagate(steps: tuple[str, ...], changes: dict[Fraction, Fraction]) -> list[str] | None:
    """Later steps with the changed numbers inserted and every computation redone."""
    changes = dict(changes)
    out = []
    for step in steps:
        rewritten = _recompute(step, changes)
        if rewritten is None:
            return None
        out.append(rewritten)
    return out


def _recompute(step: str, changes: dict[Fraction, Fraction]) -> str | None:
    """One step after ``changes`` of earlier numbers; adds its own changed results to them."""
    parts, position = [], 0
    for note in NOTE.finditer(step):
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
            result = format_number(value)
            parts.append(f"<<{expression}={result}>>{result}")
            if value != old:
                changes[old] = value
        position = spelled.end()
    parts.append(_substitute(step[position:], changes))
    return "".join(parts)


def _substitute(text: str, changes: dict[Fraction, Fraction]) -> str:
    def changed(match: re.Match[str]) -> str:
        value = to_fraction(match.group())
        return match.group() if value not in changes else format_number(changes[value])

    return NUMBER.sub(changed, text)


def answer_after(solution: GoldSolution, last_steps: list[str]) -> str | None:
    """The answer of the changed last step; None if the answer did not change."""
    note = last_note(last_steps[0]) if last_steps else None
    gold_note = last_note(solution.steps[-1])
    if note is None or gold_note is None:
        return None
    right = to_fraction(solution.answer)
    if right is None or to_fraction(gold_note.group(2)) != right:
        return None  # the answer is not the last result, so the change to it is unknown
    value = to_fraction(note.group(2))
    return None if value is None or value == right else note.group(2)


def corrupted(
    solution: GoldSolution, steps: tuple[str, ...], answer: str, first_error: int
) -> CorruptedSolution | None:
    """The wrong solution, or None if a decimal fraction appears among whole numbers: right
    solutions have none then, and a model would learn to look for the point, not the error."""
    plain = tuple(strip_notes(step) for step in steps)
    right = " ".join((solution.question, *map(strip_notes, solution.steps)))
    if _DECIMAL.search(" ".join(plain)) and not _DECIMAL.search(right):
        return None
    return CorruptedSolution(solution.question, plain, answer, first_error, kind="")


def last_note(step: str) -> re.Match[str] | None:
    return _last_match(NOTE.pattern, step)
