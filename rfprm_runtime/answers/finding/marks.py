"""Answers that are marked: boxes, ``<answer>`` tags, and ``####``.

Knows marks; knows no sentences and no mathematics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from rfprm_runtime.answers.finding.frames import LONGEST, Said
from rfprm_runtime.answers.rules import BoxRule

_BOX = re.compile(
    r"\\(?:begin)?f?boxed\s{0,9}(?:(?P<open>\{)|(?P<bare>[^\s{}$\\]{1,40}))|\\f(?:rame)?box\s{0,9}(?P<f>\{)"
)
_SPACE_BETWEEN_BOXES = re.compile(r"\\(?:q?quad|text|mathrm|[,;! ])|[\s{}$.\\]")
_LISTS_BOXES = {",", ";", "and", "or", ",and", ",or", "&"}


def boxes(text: str, rule: BoxRule) -> Iterator[Said]:
    """The last box, or by the rule ``list`` the last boxes if nothing but punctuation is between
    them."""
    group: list[str] = []
    start = end = 0
    closing = _closing_braces(text) if "box" in text else {}
    for found in _BOX.finditer(text):
        if found.start() < end:  # a box in a box
            continue
        if not found["bare"] and found.end() - 1 not in closing:
            continue  # cut off
        after = found.end() if found["bare"] else closing[found.end() - 1] + 1
        content = (found["bare"] or text[found.end() : after - 1]).strip()
        content = content.rstrip(".,;:!") if found["bare"] else content
        gap = text[end : found.start()]
        is_listed = (
            rule == "list" and len(gap) <= 60 and _SPACE_BETWEEN_BOXES.sub("", gap) in _LISTS_BOXES
        )
        if not group or not is_listed:
            group, start = [], found.start()
        group.append(content)
        end = after
    if group and any(group):
        yield Said(start, ", ".join(group))


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace is closed."""
    found, open_braces = {}, []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif open_braces:
            found[open_braces.pop()] = brace.start()
    return found


_HASHES = re.compile(r"^[ \t]*####[ \t]*([^\n]+)$|(?<=\s)####[ \t]*([^\n]+)$", re.MULTILINE)


def tags(text: str, answer_in: Callable[[str], str | None]) -> Iterator[Said]:
    """The last ``<answer>…</answer>``; ``answer_in`` finds the answer in a long one."""
    end = _rfind("</answer>", text, len(text))
    start = -1 if end < 0 else _rfind("<answer>", text, end)
    inner = text[start + len("<answer>") : end].strip() if start >= 0 else ""
    if inner:
        yield Said(start, (answer_in(inner) or inner) if len(inner) <= LONGEST else inner)


def _rfind(tag: str, text: str, end: int) -> int:
    """The last place of ``tag`` before ``end``, in any case; -1 if there is none."""
    places = [text.rfind(spelled, 0, end) for spelled in (tag, tag.upper(), tag.title())]
    return max(places)


def hashes(text: str) -> Iterator[Said]:
    """GSM8K's mark. With words and no more than a step's number it is a heading."""
    end = len(text.rstrip())
    for found in _HASHES.finditer(text):
        content = (found[1] or found[2]).strip().strip("*").strip()
        is_last = found.end() >= end
        words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[A-Za-z]+", "", content))
        if content and (is_last or (len(words) <= 1 and any(map(str.isdigit, content)))):
            yield Said(found.start(), content)
