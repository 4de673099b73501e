"""Formulas in a text, and what stands around an answer without being part of it.

Knows dollars, emphasis and quotes; knows no answers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST = 2_000
"""In characters; a longer statement is no answer."""


class Said(NamedTuple):
    """An answer and the place where its mark begins."""

    at: int
    answer: str


DISPLAY = re.compile(
    r"\$\$\s*(?P<d>[^$]{1,2000}?)\s*\$\$|\\\[\s*(?P<b>.{1,2000}?)\s*\\\]", re.DOTALL
)
MATH = re.compile(
    r"\$\$(?P<d>[^$]{1,2000})\$\$|(?<!\\)\$(?P<i>(?:[^$\n\\]|\\.){1,2000})(?<!\\)\$"
    r"|\\\((?P<p>.{1,2000}?)\\\)|\\\[(?P<b>.{1,2000}?)\\\]",
    re.DOTALL,
)


def without_exclamation(text: str) -> str:
    """An exclamation mark behind a number in a sentence is no factorial."""
    return re.sub(r"(?<=[\w%)])!$", "", text)


def inside(found: re.Match[str]) -> str:
    return next(group for group in found.groupdict().values() if group is not None).strip()


def without_frame(text: str) -> str:
    """``text`` without emphasis, quotes, dollar signs around the whole, and its full stop."""
    text = text.strip()
    while len(text) <= LONGEST:
        bare = (
            text.strip()
            .strip('*`"“”')
            .removeprefix('\\"')
            .removesuffix("\\")
            .rstrip(".,;:")
            .strip()
        )
        whole = MATH.fullmatch(bare)
        bare = inside(whole) if whole is not None else bare
        if bare == text:
            return text
        text = bare
    return text
