r"""Lists, tuples, intervals and sets: what an answer of several values is made of.

Reads tidy text (:mod:`~rfprm_runtime.answers.meaning.spelling`); knows no values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_OPENING, _CLOSING = "([{", ")]}"
_SEPARATORS = (
    re.compile(r";"),
    re.compile(
        r",?\s?(?:\\text\s?\{\s?,?\s?(?:and|or)\s?\}|(?<![A-Za-z\\])(?:and|or)(?![a-z])"
        r"|\\(?:lor|land|vee|wedge)(?![A-Za-z]))"
    ),
    re.compile(r","),
)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])\s?")
_MATRIX = re.compile(
    r"\(?\\begin\s?\{[bpvBV]?(?:small)?(?:matrix|array)\}(?:\s?\{[clr|]+\})?(?P<rows>.*?)"
    r"\\end\s?\{[bpvBV]?(?:small)?(?:matrix|array)\}\)?",
    re.DOTALL,
)
_THOUSANDS = re.compile(r"[-+$¤€£]?\s?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?:[^\d,].*)?")
_MOST_ITEMS = 60
_VECTOR = "vector)"
"""How a matrix of one row or column closes."""


class Group(NamedTuple):
    """Several values. ``opening`` and ``closing`` are empty for a bare list."""

    opening: str
    closing: str
    items: tuple[str, ...]
    joiner: str = ""
    """What stands between inequalities or statements: ``and`` or ``or``; empty for a comma."""

    @property
    def is_ordered(self) -> bool:
        return self.opening in ("(", "[")

    def may_be(self, other: Group) -> bool:
        """Whether the brackets leave open that both are the same. An interval is known by its
        brackets; a longer list is a list in round and in square ones."""
        if self.joiner and other.joiner and self.joiner != other.joiner:
            return False
        if not self.opening or not other.opening:
            bracketed = self if self.opening else other
            return bracketed.opening != "[" or len(bracketed.items) > 2
        if self.is_ordered != other.is_ordered:
            return False
        brackets = {(self.opening, self.closing), (other.opening, other.closing)}
        if any(closing == _VECTOR for _, closing in brackets):
            return brackets <= {("(", _VECTOR), ("(", ")"), ("[", "]")}
        return len(brackets) == 1 or (len(self.items) > 2 and brackets == {("(", ")"), ("[", "]")})


def group(text: str) -> Group | None:
    r"""A tidy text as a tuple, an interval, a set, a vector or a bare list; None if it is a single
    value. ``1 \pm \sqrt{2}`` is two."""
    vector = _vector(text)
    if vector is not None:
        return vector
    inner, opening, closing = text.strip(), "", ""
    if inner.startswith("\\{") and inner.endswith("\\}") and _encloses(inner, 2):
        inner, opening, closing = inner[2:-2], "\\{", "\\}"
    elif inner[:1] in ("(", "[") and inner[-1:] in (")", "]") and _encloses(inner, 1):
        inner, opening, closing = inner[1:-1], inner[0], inner[-1]
    values = items(inner)
    if len(values) > 1 or opening == "\\{":
        return Group(opening, closing, values, _joiner(inner))
    if not opening or (opening, closing) == ("(", ")"):
        both = _both_signs(inner)
        return None if both is None else Group("", "", both)
    return None


def without_parentheses(text: str) -> str:
    """A single value without the parentheses around the whole."""
    is_whole = text[:1] == "(" and text[-1:] == ")" and _encloses(text, 1)
    return text[1:-1].strip() if is_whole and len(items(text[1:-1])) == 1 else text


def parted(found: Group) -> tuple[str, ...]:
    """The values of a list whose parts are bare lists themselves: ``21, 16 or 11``."""
    return tuple(_parted(found))


def _parted(found: Group) -> Iterator[str]:
    for item in found.items:
        name, equals, rest = item.partition("=")
        inner = group(rest if equals else item)
        if inner is not None and not inner.opening:
            yield from (f"{name}={value}" if equals else value for value in _parted(inner))
        else:
            yield item


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of a text between the separators that stand in no brackets."""
    depths = _depths(text)
    parts, start = [], 0
    for found in separator.finditer(text):
        if depths[found.start()] == 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def items(text: str) -> tuple[str, ...]:
    """The parts of a list, between its strongest separators."""
    if _THOUSANDS.fullmatch(text):
        return (text,)
    for separator in _SEPARATORS:
        found = [item.strip() for item in split(text, separator)]
        if 1 < len(found) <= _MOST_ITEMS:
            return tuple(item for item in found if item)
    return (text.strip(),) if text.strip() else ()


def _joiner(text: str) -> str:
    """Of values ``and`` and ``or`` say the same, of inequalities and statements they do not."""
    logical = re.search(r"\\(land|wedge|lor|vee)(?![A-Za-z])", text)
    if logical is not None:
        return "and" if logical[1] in ("land", "wedge") else "or"
    if not re.search(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])", text):
        return ""
    found = re.search(r"(?<![A-Za-z\\])(and|or)(?![a-z])", text)
    return found[1] if found else ""


def _vector(text: str) -> Group | None:
    """A matrix of one row or column is a vector."""
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    rows = [row.strip() for row in found["rows"].split("\\\\") if row.strip()]
    if len(rows) == 1:
        rows = [cell.strip() for cell in rows[0].split("&")]
    if len(rows) < 2 or any("&" in row for row in rows):
        return None
    return Group("(", _VECTOR, tuple(rows))


def _both_signs(text: str) -> tuple[str, ...] | None:
    if not _PLUS_MINUS.search(text) or "=" in text:
        return None
    signs = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
    found = [_PLUS_MINUS.sub(lambda m, s=s: s[m[1]], text).lstrip("+") for s in signs]  # type: ignore[misc]
    return tuple(found)


def _depths(text: str) -> list[int]:
    """How many brackets are open at each place. ``[0, 1)`` closes what it opens."""
    depths, depth = [], 0
    for sign in text:
        if sign in _CLOSING:
            depth = max(0, depth - 1)
        depths.append(depth)
        if sign in _OPENING:
            depth += 1
    return depths


def _encloses(text: str, width: int) -> bool:
    """Whether the bracket that begins a text is closed by the one that ends it."""
    return all(depth > 0 for depth in _depths(text)[width:-width])
