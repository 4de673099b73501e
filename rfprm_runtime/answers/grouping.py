"""Answers that mean the same, grouped for a vote, whatever the order of the voters.

Knows readings and comparison; knows no weights.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from fractions import Fraction
from heapq import merge
from math import floor

from rfprm_runtime.answers.compare import Reading, Verify, answers_agree, read
from rfprm_runtime.answers.meaning.words import folded
from rfprm_runtime.answers.rules import DEFAULT_RULES, AnswerRules

_BUCKETS = 10**6
"""Numbers that may agree lie in the same bucket of this many to 1, or in neighbours."""


def need_algebra(answers: Sequence[str | None]) -> bool:
    """Whether comparing ``answers`` takes more than comparing numbers, options and words."""
    spellings = {answer for answer in answers if answer}
    return len(spellings) > 1 and any(not read(answer).is_simple for answer in spellings)


def group_answers(
    answers: Sequence[str | None],
    *,
    verify: Verify | None = None,
    same: Verify | None = None,
    rules: AnswerRules = DEFAULT_RULES,
) -> list[list[int]]:
    """Groups of indices of answers that mean the same, in the order of their first members.

    ``verify`` decides what comparing numbers, options, words and lists leaves open; ``same``
    decides everything but equal texts.

    Equality of answers is no perfect equivalence: 12 agrees with 12 hours and with 12 minutes. So
    the distinct answers join groups in an order of their own, those that say most first, and the
    groups do not depend on the order of ``answers``. None is in no group.
    """
    distinct = {answer for answer in answers if answer is not None}
    found = _Groups(verify, same, rules)
    places = {answer: found.place_of(answer) for answer in sorted(distinct, key=_says_most)}
    groups: dict[int, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(places[answer], []).append(index)
    return list(groups.values())


def _says_most(answer: str) -> tuple[int, int, str]:
    """Answers with a unit or a text before those without, and a percentage, which may be two
    numbers, last."""
    reading = read(answer)
    quantity = reading.quantity
    if quantity is not None and quantity.is_percent:
        vague = 2
    else:
        says_more = bool(
            reading.option_text or (quantity and (quantity.unit.words or quantity.base))
        )
        vague = 0 if says_more else 1
    return vague, len(answer), answer


class _Groups:
    """The first member of each group, found by what decides whether an answer agrees with it: only
    formulas are compared with one after the other."""

    def __init__(self, verify: Verify | None, same: Verify | None, rules: AnswerRules) -> None:
        self._verify = verify
        self._same = same
        self._rules = rules
        self._firsts: list[str] = []
        self._by_key: dict[Hashable, list[int]] = {}

    def place_of(self, answer: str) -> int:
        """The place of the first group whose first member agrees; without one, a new place."""
        reading = read(answer)
        for place in self._candidates(reading):
            if self._agree(answer, self._firsts[place]):
                return place
        self._firsts.append(answer)
        place = len(self._firsts) - 1
        for key in _keys(reading):
            self._by_key.setdefault(key, []).append(place)
        return place

    def _agree(self, answer: str, first: str) -> bool:
        if self._same is not None:
            return bool(self._same(answer, first))
        return bool(answers_agree(answer, first, verify=self._verify, rules=self._rules))

    def _candidates(self, reading: Reading) -> Iterable[int]:
        """In order, and with ``verify`` everything that it could find to be the same."""
        is_open = self._verify is not None and not reading.is_simple
        if self._same is not None or self._rules.tolerance or is_open:
            return range(len(self._firsts))
        keys = _sought(reading) - {_FORMULA}
        keys |= set() if self._verify is None else {_FORMULA}
        return merge(*(self._by_key.get(key, []) for key in keys))


_FORMULA, _ANY = "formula", "any"


def _keys(reading: Reading) -> set[Hashable]:
    """Where an answer is found."""
    quantity = reading.quantity
    if quantity is not None and quantity.base:
        return {("numeral", quantity.value), ("numeral", quantity.digits)}
    if quantity is not None:
        bucket = _bucket(quantity.value)
        return {(bucket, word) for word in (_ANY, *(quantity.unit.words or ("",)))}
    keys: set[Hashable] = {reading.text}
    if reading.is_prose:
        keys.add(folded(reading.shown))
    if reading.option_letter:
        keys.add(("option", reading.option_letter))
    if reading.option_text:
        keys |= _keys(read(reading.option_text))
    if not reading.is_simple:
        keys.add(_FORMULA)
    return keys


def _sought(reading: Reading) -> set[Hashable]:
    """Where the answers are found that an answer may agree with."""
    quantity = reading.quantity
    if quantity is None and reading.option_text:
        return _keys(reading) | _sought(read(reading.option_text))
    if quantity is None or quantity.base:
        return _keys(reading)
    # A percentage agrees with its share.
    factor = Fraction(1, 100) if quantity.is_percent else 100
    buckets = {
        _bucket(value) + step
        for value in (quantity.value, quantity.value * factor)
        for step in (-1, 0, 1)
    }
    words = ("", "%", *quantity.unit.words) if quantity.unit.words else (_ANY,)
    numerals = {("numeral", quantity.digits)} if quantity.digits else set()
    return {(bucket, word) for bucket in buckets for word in words} | numerals


def _bucket(value: Fraction) -> int:
    return floor(value * _BUCKETS)
