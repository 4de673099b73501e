r"""Numbers with their units, read exactly.

``1,200``, ``$3.50``, ``1\frac{1}{2}``, ``1.5 \cdot 10^3``, ``40%``, ``204_5``, ``0.\overline{3}``,
``twelve``, ``12 cm^2``, ``3rd``.

Reads tidy text (:mod:`~rfprm_runtime.answers.meaning.spelling`) that is one number, nothing else.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from rfprm_runtime.answers.meaning.spelling import words_shown
from rfprm_runtime.answers.meaning.units import Unit, multiplier, number_words, read_unit
from rfprm_runtime.answers.rules import AnswerRules
from rfprm_runtime.answers.spelled_numbers import SPELLED, to_fraction

LONGEST = 200
"""In characters; a longer text is never read as one number with its unit."""
_COMPUTED_DIGITS = 13
"""A decimal with as many digits was computed in floating point, and is near what it means."""
_ABSOLUTE, _RELATIVE = Fraction(5, 10**7), Fraction(1, 10**5)
"""How near a decimal must be to what it rounds: six digits behind the point, as math-verify has it,
and of tiny numbers the first five that are not 0."""
_MOST_EXPONENT = 999

_DIGITS = rf"{SPELLED}"
_FRACTION = re.compile(
    r"(?P<whole>\d{1,15}(?:\s|(?=\\)))?\s?"
    r"(?:\\frac\s?(?:\{\s?(?P<top>-?\d{1,30}(?:\.\d{1,30})?)\s?\}|(?P<t>\d))\s?"
    r"(?:\{\s?(?P<bottom>\d{1,30}(?:\.\d{1,30})?)\s?\}|(?P<b>\d))"
    r"|(?P<over>\d{1,30}(?:\.\d{1,30})?)\s?/\s?(?P<under>\d{1,30}(?:\.\d{1,30})?))"
)
_DECIMAL = re.compile(
    rf"(?P<number>\d{{1,3}}(?:\s\d{{3}})+(?!\d)(?:\.\d+)?|{_DIGITS}|0,\d{{1,20}}(?![\d,]))(?:[eE](?P<e>[-+]?\d{{1,3}}))?"
    r"(?:\s?(?:\\cdot|[xX*])\s?10\s?\^\s?(?:\{\s?(?P<ten>[-+]?\d{1,3})\s?\}|(?P<t>\d)))?"
)
_POWER_OF_TEN = re.compile(r"10\s?\^\s?(?:\{\s?(?P<ten>[-+]?\d{1,3})\s?\}|(?P<t>\d{1,3}))")
_BASE = re.compile(
    r"(?P<digits>[0-9A-F]{1,60})\s?(?:_\s?\{?\s?(?:\\text\s?\{)?(?P<base>\d{1,2}|two|three|four|five"
    r"|six|seven|eight|nine|ten|twelve|sixteen)\s?\}{0,2}"
    r"|\s?\(?(?:in )?base[ -]?(?P<named>\d{1,2})\)?)"
)
_REPEATING = re.compile(
    r"(?P<whole>\d{1,15})?\.(?P<fixed>\d{0,30})(?:\\overline\s?\{(?P<over>\d{1,30})\}|\\overline\s?(?P<o>\d)"
    r"|\\(?:dot|bar)\s?\{(?P<dot>\d)\}|\((?P<round>\d{1,30})\)"
    r"|(?P<last>\d)\s?(?:\(?repeating\)?|recurring))"
)
_ENDLESS = re.compile(
    r"(?P<whole>\d{1,15})?\.(?P<fixed>\d{0,30}?)(?P<digit>\d)(?P=digit){2,}(?:\\[lc]?dots|\.{3}|…)"
)
_SIGN = re.compile(r"([-+])\s?")
_CURRENCY = re.compile(r"(US\$|USD|[¤$€£¥₹]|Rs\.?|R\$)\s?")
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip


class Quantity(NamedTuple):
    """A number as it was spelled."""

    value: Fraction
    unit: Unit
    kind: Literal["exact", "decimal", "computed"] = "exact"
    """``decimal``: written with a point, perhaps rounded. ``computed``: with more digits than
    anybody writes."""
    base: int = 0
    """Of its digits, 0 if it does not say."""
    digits: str = ""
    """The number as a numeral, if a base may be missing."""

    @property
    def is_percent(self) -> bool:
        return self.unit.words == ("%",)


def read_quantity(text: str) -> Quantity | None:
    """The number that a tidy text is, or None if it is anything else."""
    if not text or len(text) > LONGEST:
        return None
    text = re.sub(r"(?<=\d)\^\{\\circ\}", " \\\\text{degree} ", text)
    sign, text, money = _signed(words_shown(text))
    for read in (_repeating, _based, _fraction, _power_of_ten, _decimal, _worded):
        found = read(text)
        if found is not None:
            quantity, rest = found
            is_attached = rest[:1].isalpha() and quantity.kind == "exact"
            unit = read_unit(rest, money, is_attached=is_attached)
            if unit is None:
                continue
            return quantity._replace(value=sign * quantity.value, unit=unit)
    return None


def same_quantity(one: Quantity, other: Quantity, rules: AnswerRules) -> bool:
    """Whether two quantities are one answer. A missing unit or base is no error; another is."""
    if one.base or other.base:
        return _same_numeral(one, other)
    if one.is_percent != other.is_percent:
        share, bare = (one, other) if one.is_percent else (other, one)
        if bare.unit.words:
            return False
        hundredth = share._replace(value=share.value / 100)
        return _close(hundredth, bare, rules) or (
            rules.percent == "either" and _close(share, bare, rules)
        )
    return one.unit.fits(other.unit) and _close(one, other, rules)


def _same_numeral(one: Quantity, other: Quantity) -> bool:
    """``13_5`` is ``13`` with its base left out; it is not ``8``, for its base was asked for."""
    if one.base and other.base:
        return one.value == other.value
    return one.digits == other.digits and (one.value < 0) == (other.value < 0)


def _close(one: Quantity, other: Quantity, rules: AnswerRules) -> bool:
    if one.value == other.value:
        return True
    if rules.tolerance:
        size = max(abs(one.value), abs(other.value))
        return abs(one.value - other.value) <= Fraction(rules.tolerance) * size
    kinds = {one.kind, other.kind}
    # 5 and 5.001 are two numbers, and so are 0.3333 and 0.33333; 0.333333 is 1/3, rounded.
    is_rounded = "computed" in kinds or kinds == {"exact", "decimal"}
    return is_rounded and is_near(one.value, other.value)


def is_near(one: Fraction, other: Fraction) -> bool:
    """Whether one number may be the other, rounded to six decimals or more."""
    gap = abs(one - other)
    return gap <= _ABSOLUTE and gap <= _RELATIVE * max(abs(one), abs(other))


_Found = tuple[Quantity, str]
_NO_UNIT = Unit(())


def _signed(text: str) -> tuple[int, str, str]:
    """The sign, what is behind it, and the sign of a currency on either side of it."""
    sign, money = 1, ""
    for _ in range(2):
        found = _SIGN.match(text)
        if found:
            sign = -1 if found[1] == "-" else 1
            text = text[found.end() :]
        found = _CURRENCY.match(text)
        if found and not money:
            money, text = found[1], text[found.end() :]
    bare = re.fullmatch(r"\(([^(),]*)\)(\s?[^\W\d_].*)?", text)
    return sign, (f"{bare[1]}{bare[2] or ''}" if bare else text), money


def _fraction(text: str) -> _Found | None:
    found = _FRACTION.match(text)
    if found is None:
        return None
    top = Fraction(found["top"] or found["t"] or found["over"])
    bottom = Fraction(found["bottom"] or found["b"] or found["under"])
    whole = Fraction((found["whole"] or "0").strip())
    if not bottom or (found["whole"] and (top < 0 or top.denominator > 1)):
        return None
    has_point = "." in found[0]
    kind: Literal["exact", "decimal"] = "decimal" if has_point else "exact"
    return Quantity(whole + top / bottom, _NO_UNIT, kind), text[found.end() :]


def _decimal(text: str) -> _Found | None:
    found = _DECIMAL.match(text)
    number = to_fraction(_with_point(found["number"])) if found else None
    if found is None or number is None:
        return None
    exponent = int(found["e"] or 0) + int(found["ten"] or found["t"] or 0)
    spelled = _with_point(found["number"]).replace(",", "")
    num_digits = len(spelled.replace(".", "").lstrip("0"))
    is_decimal = "." in spelled
    is_computed = is_decimal and num_digits >= _COMPUTED_DIGITS
    kind: Literal["exact", "decimal", "computed"] = "exact"
    if is_decimal:
        kind = "computed" if is_computed else "decimal"
    factor, rest = multiplier(text[found.end() :])
    digits = spelled if found[0] == found["number"] and factor == 1 else ""
    return Quantity(number * factor * Fraction(10) ** exponent, _NO_UNIT, kind, 0, digits), rest


def _with_point(number: str) -> str:
    """``0,5`` has a decimal comma: no group of thousands begins with 0."""
    return number.replace(",", ".") if re.match(r"0,\d", number) else number.replace(" ", "")


def _power_of_ten(text: str) -> _Found | None:
    found = _POWER_OF_TEN.match(text)
    if found is None:
        return None
    return Quantity(Fraction(10) ** int(found["ten"] or found["t"]), _NO_UNIT), text[found.end() :]


def _based(text: str) -> _Found | None:
    found = _BASE.match(text)
    if found is None:
        return None
    spelled = found["base"] or found["named"]
    base = _BASES.get(spelled) or int(spelled)
    try:
        value = int(found["digits"], base)
    except ValueError:  # a digit that the base does not have, or no base at all
        return None
    return Quantity(Fraction(value), _NO_UNIT, "exact", base, found["digits"]), text[found.end() :]


def _repeating(text: str) -> _Found | None:
    found = _REPEATING.match(text) or _ENDLESS.match(text)
    if found is None:
        return None
    parts = found.groupdict()
    fixed = parts["fixed"]
    over = next(parts[n] for n in ("over", "o", "dot", "round", "last", "digit") if parts.get(n))
    whole = Fraction(parts["whole"] or 0) + Fraction(int(fixed or 0), 10 ** len(fixed))
    repeated = Fraction(int(over), (10 ** len(over) - 1) * 10 ** len(fixed))
    return Quantity(whole + repeated, _NO_UNIT), text[found.end() :]


def _worded(text: str) -> _Found | None:
    found = number_words(text)
    return None if found is None else (Quantity(Fraction(found[0]), _NO_UNIT), found[1])
