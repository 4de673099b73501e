"""Splits a model's output into steps, and merges them. Knows nothing about scoring."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_finite
from rfprm_runtime.ground.assignment import Similarities, group_starts
from rfprm_runtime.ground.blocks import parts_between
from rfprm_runtime.ground.thinking import parse_trace

SplitRule = Literal["blank_lines", "lines"]
_BLANK_LINES, _LINE_END = re.compile(r"\n\s*\n"), re.compile(r"\n")


def split_steps(text: str, split: SplitRule = "blank_lines") -> list[str]:
    """Split a text into steps, at blank lines (the method's rule) or at line ends.

    A line of only white space counts as blank; steps are stripped and never empty. Fenced code and
    display math stay whole. Raises ``ValueError`` for an unknown rule.
    """
    if split not in ("blank_lines", "lines"):
        raise InvalidArgumentError(f"split is {split!r}, expected 'blank_lines' or 'lines'")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts = parts_between(_BLANK_LINES if split == "blank_lines" else _LINE_END, text)
    return [step for part in parts if (step := part.strip())]


def split_trace(
    text: str, split: SplitRule = "blank_lines", *, prompt: str = ""
) -> tuple[list[str], list[str]]:
    """The thinking steps and response steps of a model's output. Without any thinking, the steps
    of the text are the thinking steps. ``prompt``: what the text continues."""
    trace = parse_trace(text, prompt=prompt)
    steps, response = split_steps(trace.thinking, split), split_steps(trace.response, split)
    return (steps, response) if steps else (response, [])


def merge_steps(
    steps: Sequence[str],
    response: Sequence[str],
    *,
    similarity: Callable[[str, str], float] | None = None,
) -> list[str]:
    """Merge surplus thinking steps so that step t can be paired with response step t.

    ReasonFlux-PRM pairs them by index. If there are more steps than response steps, its authors
    merge each step that causes the mismatch into the one before it. We find those steps by the
    monotone assignment of steps to response steps (every response step gets at least one) with the
    greatest total similarity; steps assigned to the same response step are joined by a blank line.

    ``similarity(step, response_step)`` is by default the share of common words; a sentence encoder
    is a useful replacement. With no more steps than response steps, or with no response, the steps
    are returned unchanged. Of more than a million pairs only those near the diagonal are compared
    (:func:`~rfprm_runtime.ground.assignment.group_starts`).
    Raises ``ValueError`` if a similarity is not a finite number.
    """
    num_steps, num_groups = len(steps), len(response)
    if num_groups == 0 or num_steps <= num_groups:
        return list(steps)
    rows = (
        _WordOverlaps(steps, response)
        if similarity is None
        else _rows_of(similarity, steps, response)
    )
    starts = group_starts(num_steps, num_groups, rows)
    ends = [*starts[1:], num_steps]
    return ["\n\n".join(steps[start:end]) for start, end in zip(starts, ends, strict=True)]


def _rows_of(
    similarity: Callable[[str, str], float], steps: Sequence[str], response: Sequence[str]
) -> Similarities:
    def row(step: int, low: int, high: int) -> list[float]:
        found = [similarity(steps[step], part) for part in response[low:high]]
        for group, value in enumerate(found, start=low):
            check_finite(f"similarity(step {step}, response step {group})", value)
        return found

    return row


class _WordOverlaps:
    """The share of common words (Jaccard) of steps and response steps, a row at a time."""

    def __init__(self, steps: Sequence[str], response: Sequence[str]) -> None:
        self._steps = [_words(step) for step in steps]
        parts = [_words(part) for part in response]
        self._sizes = np.array([len(words) for words in parts])
        places: dict[str, list[int]] = {}
        for index, words in enumerate(parts):
            for word in words:
                places.setdefault(word, []).append(index)
        self._places = {word: np.array(found) for word, found in places.items()}

    def __call__(self, step: int, low: int, high: int) -> NDArray[np.float64]:
        words = self._steps[step]
        common = np.zeros(high - low)
        for word in words & self._places.keys():
            places = self._places[word]
            first, last = np.searchsorted(places, (low, high))
            common[places[first:last] - low] += 1
        return common / np.maximum(len(words) + self._sizes[low:high] - common, 1)


def _words(text: str) -> set[str]:
    """The text's lower-cased words and numbers."""
    return set(re.findall(r"\w+", text.lower()))
