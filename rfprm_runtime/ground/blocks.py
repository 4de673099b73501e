"""Blocks that a step keeps whole: fenced code and display math. Takes linear time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

# What opens a block at the beginning of a line, and what may close one.
_MARKS = re.compile(
    r"""
    ^[ \t]*(?P<fence>`{3,}|~{3,})
    | (?P<dollars>\$\$)
    | (?P<open>\\\[) | (?P<close>\\\])
    | \\(?P<edge>begin|end)\{(?P<name>[A-Za-z]{1,20}\*?)\}
    """,
    re.VERBOSE | re.MULTILINE,
)
_MATH = ("align", "aligned", "array", "cases", "equation", "gather", "gathered", "matrix", "split")


def parts_between(separator: re.Pattern[str], text: str) -> Iterator[str]:
    """The parts of ``text`` between the separators that lie in no block."""
    blocks, start, at = list(_blocks(text)), 0, 0
    for found in separator.finditer(text):
        while at < len(blocks) and blocks[at][1] <= found.start():
            at += 1
        if at < len(blocks) and blocks[at][0] <= found.start():
            continue
        yield text[start : found.start()]
        start = found.end()
    yield text[start:]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """The spans of blocks, in order. One that is never closed is none: its text is split."""
    marks = [(_kind(found), found) for found in _MARKS.finditer(text)]
    closing: defaultdict[str, list[int]] = defaultdict(list)  # by kind, last first
    for index in range(len(marks) - 1, -1, -1):
        kind, found = marks[index]
        if not _only_opens(found):
            closing[kind].append(index)
    index = 0
    while index < len(marks):
        kind, found = marks[index]
        ends = closing[kind]
        while ends and ends[-1] <= index:
            ends.pop()
        if ends and _opens(found, text):
            yield found.start(), marks[ends[-1]][1].end()
            index = ends[-1]
        index += 1


def _kind(found: re.Match[str]) -> str:
    """What an opening and a closing mark of the same block have in common."""
    if found["fence"]:
        return found["fence"][0]
    if found["name"]:
        return found["name"]
    return "$$" if found["dollars"] else "[]"


def _only_opens(found: re.Match[str]) -> bool:
    return bool(found["open"]) or found["edge"] == "begin"


def _opens(found: re.Match[str], text: str) -> bool:
    if found["edge"] == "begin":
        return found["name"].rstrip("*") in _MATH or found["name"].rstrip("*").endswith("matrix")
    if found["dollars"]:  # a price or a formula in a line opens nothing
        return not text[text.rfind("\n", 0, found.start()) + 1 : found.start()].strip()
    return bool(found["fence"] or found["open"])
