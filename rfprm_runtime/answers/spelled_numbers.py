"""Numbers as people write them: the one grammar that finds them in text, and their values.

Knows no answers, equations or currencies; those build on these patterns.
"""

from __future__ import annotations

import re
from fractions import Fraction

SPELLED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
"""A number without a sign, as part of a larger pattern: ``7``, ``1,200``, ``3.50``, ``.5``. A comma
belongs to it only between groups of three digits, a point only before a digit."""
NUMBER = re.compile(SPELLED)
SIGNED_NUMBER = re.compile(f"-?{SPELLED}")


_LONGEST = 5_000
_HUGE_EXPONENT = re.compile(r"[eE][-+]?[\d_]{4}")


def to_fraction(text: str) -> Fraction | None:
    """The value of a spelled number (``1,200``, ``$3.50``, ``40%`` as 40), or None.

    Also None for more than 5,000 characters and exponents of more than three digits: a number
    that large takes time and memory, and answers nothing.
    """
    spelled = text.replace(",", "").replace("$", "").rstrip(".%").strip()
    if len(spelled) > _LONGEST or _HUGE_EXPONENT.search(spelled):
        return None
    try:
        return Fraction(spelled)
    except (ValueError, ZeroDivisionError):
        return None
