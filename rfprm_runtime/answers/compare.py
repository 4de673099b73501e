"""Whether two answers are the same: as numbers with units, options, words, lists, and mathematics.

Takes a function for formulas; without one it decides what needs no algebra.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from rfprm_runtime.answers.algebra import can_read
from rfprm_runtime.answers.meaning.groups import Group, group, parted, without_parentheses
from rfprm_runtime.answers.meaning.names import (
    Named,
    computed,
    is_equation,
    named,
    same_name,
    variables,
)
from rfprm_runtime.answers.meaning.quantities import Quantity, read_quantity, same_quantity
from rfprm_runtime.answers.meaning.spelling import tidy, words_shown
from rfprm_runtime.answers.meaning.units import Unit, without_unit
from rfprm_runtime.answers.meaning.words import is_prose, same_signs, same_words
from rfprm_runtime.answers.reach import is_in_reach
from rfprm_runtime.answers.rules import DEFAULT_RULES, AnswerRules

Verify = Callable[[str, str], object]
_OPTION = re.compile(
    r"(?:(?i:option|choice|answer)\s?)?"
    r"(?:\(\s?(?P<a>[A-J])\s?\)|(?P<b>[A-J])(?:\s?\)|(?=[:.]\s|\s?$)))"
    r"(?![+\-*/^_=(\\|,])[:.)]?(?P<rest>\s?.*)",
    re.DOTALL,
)
_DEEPEST = 6


def answers_agree(
    answer: str | None,
    target: str | None,
    *,
    verify: Verify | None = None,
    rules: AnswerRules = DEFAULT_RULES,
) -> bool | None:
    """Whether two answers mean the same; None if one is missing or it cannot be decided.

    Numbers are compared by value with their units, options by letter, words by spelling, lists item
    by item; ``verify(answer, target)`` decides what that leaves open, such as formulas. It does not
    matter which comes first.
    """
    if not answer or not target:
        return None
    found = compare(read(answer), read(target), None, rules)
    if found is not None or verify is None:
        return found
    verdict = verify(answer, target)
    return None if verdict is None else bool(verdict)  # numpy's True counts too


class Reading(NamedTuple):
    """What comparing an answer needs."""

    text: str
    """Tidy."""
    shown: str
    """With the words of LaTeX's text command shown."""
    quantity: Quantity | None = None
    option: str = ""
    """The letter of a multiple choice, alone or before what it stands for."""
    option_text: str = ""
    is_prose: bool = False
    is_in_reach: bool = True

    @property
    def option_letter(self) -> str:
        """Of a choice, also where nothing but a letter, perhaps a small one, was said."""
        return self.option or (self.text.upper() if len(self.text) == 1 else "")

    @property
    def is_simple(self) -> bool:
        """Whether no algebra is needed to compare it."""
        return self.quantity is not None or bool(self.option) or self.is_prose or not self.text


@lru_cache(maxsize=4_096)
def read(text: str) -> Reading:
    """An answer, read once. Takes linear time."""
    if not is_in_reach(text):
        squeezed = " ".join(text.split())
        return Reading(squeezed, squeezed, is_in_reach=False)
    spelled = tidy(text)
    shown = words_shown(spelled)
    found = _OPTION.fullmatch(shown)
    option = (found["a"] or found["b"]) if found else ""
    rest = found["rest"].strip(" .:)") if found else ""
    quantity = read_quantity(spelled)
    return Reading(spelled, shown, quantity, option, rest, quantity is None and is_prose(spelled))


def compare(
    one: Reading,
    other: Reading,
    formulas: Verify | None = None,
    rules: AnswerRules = DEFAULT_RULES,
    depth: int = 0,
) -> bool | None:
    """Whether two readings mean the same; None if ``formulas`` is needed and missing. Symmetric if
    ``formulas`` is."""
    if one.text == other.text and one.text:
        return True
    if not (one.is_in_reach and other.is_in_reach):
        return None
    if depth > _DEEPEST:
        return False
    if one.quantity is not None and other.quantity is not None:
        return same_quantity(one.quantity, other.quantity, rules)
    if one.option or other.option:
        found = _same_option(one, other)
        if found is not None:
            return found
        for bare, lettered in ((one, other), (other, one)):
            if lettered.option_text and not bare.option:
                return compare(bare, read(lettered.option_text), formulas, rules, depth + 1)
    if one.is_prose and other.is_prose:
        return same_words(one.shown, other.shown)
    return _Parts(formulas, rules, depth + 1).same(one, other)


def _same_option(one: Reading, other: Reading) -> bool | None:
    """By the letter, and by the text if both have one; ``c`` is C."""
    letters = [side.option_letter for side in (one, other)]
    if not all(letters):
        return None
    both_say = one.option_text and other.option_text
    return letters[0] == letters[1] and (
        not both_say or same_words(one.option_text, other.option_text)
    )


class _Parts(NamedTuple):
    """Compares what is in names, lists, chains and units."""

    formulas: Verify | None
    rules: AnswerRules
    depth: int

    def _compare(self, one: str, other: str) -> bool | None:
        return compare(read(one), read(other), self.formulas, self.rules, self.depth)

    def same(self, one: Reading, other: Reading) -> bool | None:
        first, second = named(one.text), named(other.text)
        if not _names_fit(first, second):
            if not (variables(first.value) and variables(second.value)):
                return False
            return self._same_values(one.text, other.text)  # x = 2y is y = x/2
        if _is_relation_of(first, other.text) or _is_relation_of(second, one.text):
            return self._same_values(one.text, other.text)
        values = without_parentheses(first.value), without_parentheses(second.value)
        if values != (one.text, other.text):
            return self._compare(*values)
        groups = group(one.text), group(other.text)
        if groups[0] is not None and groups[1] is not None:
            return self._same_groups(groups[0], groups[1])
        if groups != (None, None) and (one.quantity or other.quantity) is not None:
            return self._same_as_single(one, other, groups[0] or groups[1])
        if one.is_prose or other.is_prose:
            return False
        return self._same_values(one.text, other.text)

    def _same_as_single(self, one: Reading, other: Reading, found: Group | None) -> bool | None:
        """A list is no number, unless all it lists is that number: ``1.5 or 3/2``."""
        number = one if one.quantity is not None else other
        if found is None or found.is_ordered or not found.items:
            return False
        return _all(self._compare(item, number.text) for item in found.items)

    def _same_values(self, one: str, other: str) -> bool | None:
        sides = computed(one), computed(other)
        if sides != (None, None):
            # A chain such as 3 * 4 = 12 says what it comes to.
            return self._compare(
                one if sides[0] is None else sides[0], other if sides[1] is None else sides[1]
            )
        if is_equation(one) != is_equation(other):
            return False  # an equation to solve is not its right side
        first, second = without_unit(one), without_unit(other)
        if not first[1].fits(second[1]):
            return False
        if first[1] != second[1] or first[1] != Unit(()):
            return self._compare(first[0], second[0])
        if not (can_read(one) and can_read(other)):
            return same_signs(words_shown(one), words_shown(other))
        if self.formulas is None:
            return None
        found = self.formulas(one, other)
        return None if found is None else bool(found)

    def _same_groups(self, one: Group, other: Group) -> bool | None:
        if not one.may_be(other):
            return False
        is_ordered = one.is_ordered or other.is_ordered
        found = self._same_items(one.items, other.items, is_ordered)
        if found is not True and not is_ordered:
            flat = parted(one), parted(other)
            if flat != (one.items, other.items):
                return self._same_items(*flat, is_ordered)
        return found

    def _same_items(
        self, one: tuple[str, ...], other: tuple[str, ...], is_ordered: bool
    ) -> bool | None:
        if len(one) != len(other):
            return False
        if is_ordered or _are_named_on_one_side(one, other):
            return _all(self._compare(a, b) for a, b in zip(one, other, strict=True))
        return self._same_in_any_order(one, other)

    def _same_in_any_order(self, one: tuple[str, ...], other: tuple[str, ...]) -> bool | None:
        """Each item takes the first that agrees; what is left open leaves the whole open."""
        left, is_open = list(other), False
        for item in one:
            verdicts = [self._compare(item, candidate) for candidate in left]
            if True in verdicts:
                left.pop(verdicts.index(True))
            elif None in verdicts:
                is_open = True
            else:
                return False
        return None if is_open else True


def _all(verdicts: object) -> bool | None:
    found = list(verdicts)  # type: ignore[call-overload]
    if False in found:
        return False
    return None if None in found else True


def _names_fit(one: Named, other: Named) -> bool:
    return not one.name or not other.name or same_name(one, other)


def _is_relation_of(one: Named, other: str) -> bool:
    """Whether both are equations: ``x = y + 2`` is ``x - y = 2``, though it has a name."""
    return (
        bool(one.name)
        and bool(variables(one.value))
        and not named(other).name
        and is_equation(other)
    )


def _are_named_on_one_side(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """``x = 1, y = 2`` against ``1, 2``: the order says which is which."""
    names = [{named(item).name for item in side} for side in (one, other)]
    return ("" in names[0]) != ("" in names[1]) and max(map(len, names)) > 1
