"""Whether two answers are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from heapq import merge
from typing import NamedTuple

from rfprm_runtime.answers.spelled_numbers import SIGNED_NUMBER, to_fraction

# A single letter behind a number is a variable, unless it is the sign of a common unit.
_WORD = r"(?!(?:or|and|to)\b)(?:[A-Za-z]{2,20}|[mgshlLKNJWV](?![A-Za-z]))(?:\^?\{?-?[1-3]\}?|[²³])?"
_UNIT = rf"\\?%|°|{_WORD}(?:\s?/\s?{_WORD}|\s{_WORD}){{0,4}}"
_PLAIN = re.compile(
    rf"[$€£]?\s*({SIGNED_NUMBER.pattern})(?:[eE]([-+]?\d{{1,3}}))?\s*({_UNIT})?(?:\s+each)?\.?"
)
_MIXED = re.compile(r"(-?)(\d{1,12})\s+(\d{1,12})/(\d{1,12})")
_THIN_SPACE = re.compile(r"(?<=\d)(?:\\,|\\!|\{,\}|[\u2009\u202f\u00a0])(?=\d{3})")
_OPTION = re.compile(r"\(?([A-J])\)?\s*(?:[:.)]\s*\S.*)?|\(([A-J])\).*", re.DOTALL)
_LONGEST_LETTER = len("(A)")
_LONGEST_NUMBER = 200
"""In characters; a longer text is never read as one number with its unit."""


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
        if reading.option is not None:
            self._known.setdefault((reading.option, reading.is_letter), place)
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
            if known is not None and place >= known:
                break
            if _agree(reading, self._readings[place], self._verify):
                return place
        return known

    def _undecided(self, reading: _Reading) -> Iterable[int]:
        """In order; numbers of other values agree only as ``_same`` says."""
        if reading.number is None:
            return range(len(self._readings))
        return merge(self._by_value.get(reading.number.value, []), self._no_numbers)


def _same(reading: _Reading) -> list[Hashable]:
    """What an answer may have in common with one that it agrees with."""
    found: list[Hashable] = [reading.squeezed]
    if reading.option is not None:
        found.append((reading.option, True))
        found += [(reading.option, False)] if reading.is_letter else []
    if reading.number is None:
        return found
    value, unit = reading.number
    found += [reading.number, _Number(value, "")] if unit else [value, _Number(100 * value, "%")]
    return [*found, _Number(value / 100, "")] if unit == "%" else found


class _Reading(NamedTuple):
    """What comparing an answer needs, read once."""

    text: str
    squeezed: str
    number: _Number | None
    option: str | None
    """The letter of a multiple choice, alone or before what it stands for."""
    is_letter: bool

    @classmethod
    def of(cls, text: str) -> _Reading:
        bare = _squeezed(text)
        option = _option(bare)
        is_letter = option is not None and len(bare) <= _LONGEST_LETTER
        return cls(text, bare.lower(), _plain_number(text), option, is_letter)


def _agree(
    answer: _Reading, target: _Reading, verify: Callable[[str, str], object] | None
) -> bool | None:
    if not answer.text or not target.text:
        return None
    first, second = answer.number, target.number
    if first is not None and second is not None:
        if first.value != second.value:
            return _is_share_of(first, second) or _is_share_of(second, first)
        # 12 minutes are not 12 hours, but they are right if the target is a bare 12.
        if not (first.unit and second.unit) or first.unit == second.unit:
            return True
    if answer.squeezed == target.squeezed:
        return True
    if answer.option and target.option and (answer.is_letter or target.is_letter):
        return answer.option == target.option
    if verify is None:
        return None
    for one, other in ((answer, target), (target, answer)):
        if other.number is not None and not _may_say(one.text):
            return False
    found = verify(answer.text, target.text)
    return None if found is None else bool(found)  # numpy's True counts too


def _is_share_of(percent: _Number, share: _Number) -> bool:
    """40% is 0.4, as it is 40: a missing sign is no error."""
    return percent.unit == "%" and not share.unit and percent.value == 100 * share.value


class _Number(NamedTuple):
    value: Fraction
    unit: str


def _plain_number(text: str) -> _Number | None:
    if len(text) > _LONGEST_NUMBER:
        return None
    text = _THIN_SPACE.sub("", text.strip())
    mixed = _MIXED.fullmatch(text)
    if mixed is not None and int(mixed[4]):
        value = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
        return _Number(-value if mixed[1] else value, "")
    match = _PLAIN.fullmatch(text)
    number = to_fraction(match[1]) if match else None
    if match is None or number is None:
        return None
    exponent = Fraction(10) ** int(match[2] or 0)
    return _Number(number * exponent, _unit(match[3] or ""))


def _unit(text: str) -> str:
    return re.sub(r"[\s{}^\\]", "", text).lower().removesuffix("s")


def _option(bare: str) -> str | None:
    found = _OPTION.fullmatch(bare)
    return None if found is None else found[1] or found[2]


_SEVERAL = re.compile(r"[\d}]\s*(?:\\text\{)?\s*(?:or|and)\b\s*\}?\s*[-$\\\d]")
_BINDS = re.compile(r"\\(?:lim|sum|prod|int|max|min|sup|inf|angle|triangle|text|mathrm)\b")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-df-hj-zA-Z](?![A-Za-z])")


def _may_say(answer: str) -> bool:
    """Whether an answer can be read as one number: not two of them, and not an equation to
    solve. ``x = 8`` and ``2 * 4 = 8`` say 8; ``2^x = 8`` and ``8 or 9`` do not."""
    if _SEVERAL.search(answer):
        return False
    if answer.count("=") != 1 or "\\begin" in answer:
        return True
    left = answer.partition("=")[0]
    if left.rstrip()[-1:] in "<>!\\" or _BINDS.search(left):
        return True
    calculates = any(map(str.isdigit, re.sub(r"_\{?\d+\}?", "", left))) or set(left) & set("|^+*/-")
    return not (calculates and _VARIABLE.search(re.sub(r"\\[A-Za-z]+", "", left)))


def _squeezed(text: str) -> str:
    """The text without what never matters: white space beside signs, dollar signs, LaTeX's text
    command, emphasis around the whole, a full stop at the end."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text.replace("$", "")).strip().strip("*")
    text = re.sub(r"\s+", " ", text.rstrip(". "))
    return re.sub(r"(?<!\w) | (?!\w)", "", text)
