"""The final answer of a text, and whether two answers are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from heapq import merge
from typing import NamedTuple

from rfprm_runtime.answers.spelled_numbers import SIGNED_NUMBER, to_fraction

_BOXED = re.compile(r"\\boxed\s*\{")
_STATED = (
    re.compile(r"####\s*(.+)"),
    re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*(?::\s*)?(.+?)(?:\.\s|\.?$)", re.I | re.M),
    re.compile(r"^A:\s*(.+)$", re.M),
)
_PLAIN = re.compile(rf"[$€£]?\s*({SIGNED_NUMBER.pattern})\s*(%|[A-Za-z][A-Za-z ]{{0,30}})?\.?")
_LONGEST_NUMBER = 200
"""In characters; a longer text is never read as one number with its unit."""


def final_answer(text: str) -> str | None:
    r"""The answer that a text states: the last ``\boxed{…}``, ``#### …`` or ``The answer is …``, or
    else its last number. None if it has no number either."""
    boxed = _last_boxed(text)
    if boxed:
        return boxed
    for pattern in _STATED:
        matches = pattern.findall(text)
        if matches and matches[-1].strip():
            return str(matches[-1]).strip().rstrip(".").strip("*$ ") or None
    numbers = SIGNED_NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _last_boxed(text: str) -> str | None:
    openings = list(_BOXED.finditer(text))
    if not openings:
        return None
    start, depth = openings[-1].end(), 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start:index].strip()
    return None  # cut off in the middle


def answers_agree(
    answer: str | None, target: str | None, *, verify: Callable[[str, str], object] | None = None
) -> bool | None:
    """Whether two answers mean the same; None if that cannot be decided.

    Numbers are compared by value and texts by spelling; ``verify(answer, target)`` decides the
    rest.
    """
    return _agree(_Reading.of(answer or ""), _Reading.of(target or ""), verify)


def need_algebra(answers: Sequence[str | None]) -> bool:
    """Whether comparing ``answers`` takes more than comparing numbers and spellings."""
    spellings = {answer for answer in answers if answer is not None}
    return len(spellings) > 1 and any(_plain_number(answer) is None for answer in spellings)


def group_answers(
    answers: Sequence[str | None], *, verify: Callable[[str, str], object] | None = None
) -> list[list[int]]:
    """Groups of indices of answers that mean the same, in the order of their first members.

    An answer joins the first group whose first member it agrees with, so the grouping depends on
    the order alone. None is in no group.
    """
    groups: list[list[int]] = []
    by_text: dict[str, list[int]] = {}
    firsts = _FirstMembers(verify)
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in by_text:
            place = firsts.place_of(answer)
            if place == len(groups):
                groups.append([])
            by_text[answer] = groups[place]
        by_text[answer].append(index)
    return groups


class _FirstMembers:
    """The first members of groups, found by what decides whether an answer agrees with them. Only
    ``verify`` is asked about one after the other."""

    def __init__(self, verify: Callable[[str, str], object] | None) -> None:
        self._verify = verify
        self._readings: list[_Reading] = []
        self._known: dict[Hashable, int] = {}
        """The first place of each spelling, value, and value with unit."""
        self._by_value: dict[Fraction, list[int]] = {}
        self._no_numbers: list[int] = []

    def place_of(self, answer: str) -> int:
        """The place of the first member that agrees; without one, the answer itself is added."""
        reading = _Reading.of(answer)
        found = self._find(reading) if answer else None
        if found is not None:
            return found
        place = len(self._readings)
        self._readings.append(reading)
        if answer:
            self._add(reading, place)
        return place

    def _add(self, reading: _Reading, place: int) -> None:
        self._known.setdefault(reading.squeezed, place)
        if reading.number is None:
            self._no_numbers.append(place)
        else:
            self._known.setdefault(reading.number.value, place)
            self._known.setdefault(reading.number, place)
            self._by_value.setdefault(reading.number.value, []).append(place)

    def _find(self, reading: _Reading) -> int | None:
        places = [self._known[key] for key in _same(reading) if key in self._known]
        known = min(places, default=None)
        if self._verify is None:
            return known
        for place in self._undecided(reading):
            if place == known or _agree(reading, self._readings[place], self._verify):
                return place
        return known

    def _undecided(self, reading: _Reading) -> Iterable[int]:
        """In order; numbers of other values never agree."""
        if reading.number is None:
            return range(len(self._readings))
        return merge(self._by_value.get(reading.number.value, []), self._no_numbers)


def _same(reading: _Reading) -> list[Hashable]:
    """What an answer may have in common with one that it agrees with."""
    if reading.number is None:
        return [reading.squeezed]
    value, unit = reading.number
    return [reading.squeezed, *([reading.number, _Number(value, "")] if unit else [value])]


class _Reading(NamedTuple):
    """What comparing an answer needs, read once."""

    text: str
    squeezed: str
    number: _Number | None

    @classmethod
    def of(cls, text: str) -> _Reading:
        return cls(text, _squeezed(text), _plain_number(text))


def _agree(
    answer: _Reading, target: _Reading, verify: Callable[[str, str], object] | None
) -> bool | None:
    if not answer.text or not target.text:
        return None
    first, second = answer.number, target.number
    if first is not None and second is not None:
        if first.value != second.value:
            return False
        # 12 minutes are not 12 hours, but they are right if the target is a bare 12.
        if not (first.unit and second.unit) or first.unit == second.unit:
            return True
    if answer.squeezed == target.squeezed:
        return True
    if verify is None:
        return None
    found = verify(answer.text, target.text)
    return None if found is None else bool(found)  # numpy's True counts too


class _Number(NamedTuple):
    value: Fraction
    unit: str


def _plain_number(text: str) -> _Number | None:
    match = _PLAIN.fullmatch(text.strip()) if len(text) <= _LONGEST_NUMBER else None
    value = to_fraction(match.group(1)) if match else None
    if match is None or value is None:
        return None
    return _Number(value, (match.group(2) or "").strip().lower().removesuffix("s"))


def _squeezed(text: str) -> str:
    """The text without what never matters: white space beside signs, dollar signs, LaTeX's text
    command, emphasis around the whole, a full stop at the end."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text.replace("$", "")).strip().strip("*")
    text = re.sub(r"\s+", " ", text.rstrip(". "))
    return re.sub(r"(?<!\w) | (?!\w)", "", text).lower()
