"""Whether computer algebra can be expected to read an answer. Looks at the text alone.

Algebra programs compute what they read: ``9^{9^{9}}`` has 370 million digits, and nested brackets
cost their parsers exponential time. These checks take a few microseconds and never do either.
"""

from __future__ import annotations

import math
import re

MAX_CHARACTERS = 2_000
MAX_DEPTH = 20
"""Of brackets of any kind."""
MAX_DIGITS = 1_000_000
"""Of a power of numbers."""
MAX_FACTORIAL = 100_000

_CLOSED = str.maketrans(dict.fromkeys("})]", " ") | dict.fromkeys("{([", ""))
_TOWER = re.compile(r"\d+(?:\s*\^\s*-?\d+)+")
_FACTORIAL = re.compile(r"(\d+)\s*!")


def is_in_reach(text: str) -> bool:
    """Whether ``text`` is short, flat, and free of numbers too large to compute."""
    if len(text) > MAX_CHARACTERS or _depth(text) > MAX_DEPTH:
        return False
    flat = text.replace("**", "^").translate(_CLOSED)
    return all(_num_digits(tower) <= MAX_DIGITS for tower in _TOWER.findall(flat)) and all(
        _value(number) <= MAX_FACTORIAL for number in _FACTORIAL.findall(flat)
    )


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest


def _num_digits(tower: str) -> float:
    """How many digits ``a^b^c`` has, about; the sign of an exponent does not matter."""
    base, *exponents = (_value(part.strip().lstrip("-")) for part in tower.split("^"))
    power = 1.0
    for number in reversed(exponents):
        try:
            power = number**power
        except OverflowError:
            return math.inf
    return power * math.log10(base) if base > 1 else 1.0


def _value(digits: str) -> float:
    """A number of at most 300 digits, or infinity."""
    return float(digits) if len(digits) <= 300 else math.inf
