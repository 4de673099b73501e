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


def to_fraction(text: str) -> Fraction | None:
    """The value of a spelled number (``1,200``, ``$3.50``, ``40%`` as 40), or None."""
    try:
        return Fraction(text.replace(",", "").replace("$", "").rstrip(".%").strip())
    except (ValueError, ZeroDivisionError):
        return None
