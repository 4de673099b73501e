"""Splits a model's output into thinking, response and steps.

Knows the tags that reasoning models use; knows nothing about scoring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_finite
from rfprm_runtime.ground.assignment import Similarities, group_starts

SplitRule = Literal["blank_lines", "lines"]


class ParsedTrace(NamedTuple):
    """The two halves of a reasoning trace; either may be empty."""

    thinking: str
    response: str


@dataclass(frozen=True)
class ThinkingTags:
    """How one family of models delimits its thinking, and its final answer if it does."""

    open_thinking: str
    close_thinking: str
    open_response: str | None = None
    close_response: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """Every tag of the style."""
        names = (self.open_thinking, self.close_thinking, self.open_response, self.close_response)
        return tuple(name for name in names if name is not None)


# Tried in order; a text has the first style whose thinking tags it contains.
THINKING_STYLES = (
    ThinkingTags(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        "<|begin_of_solution|>",
        "<|end_of_solution|>",
    ),
    ThinkingTags("<think>", "</think>", "<answer>", "</answer>"),
    ThinkingTags("<thinking>", "</thinking>", "<answer>", "</answer>"),
)


def parse_trace(text: str) -> ParsedTrace:
    """Separate thinking from response.

    A closing tag without an opening one ends the thinking (chat templates often put the opening
    tag into the prompt); an opening tag without a closing one means that generation was cut off,
    so the rest is all thinking. If thinking and text alternate, everything up to the last closing
    tag is thinking, and inner tags become blank lines. A text without tags is all response.
    """
    tags = style_of(text)
    return ParsedTrace("", text) if tags is None else _parse_with(tags, text)


def style_of(text: str) -> ThinkingTags | None:
    """The style whose thinking tags ``text`` contains, None if it has none."""
    for tags in THINKING_STYLES:
        if tags.open_thinking in text or tags.close_thinking in text:
            return tags
    return None


def _parse_with(tags: ThinkingTags, text: str) -> ParsedTrace:
    thinking, closed, rest = text.rpartition(tags.close_thinking)
    if not closed or tags.open_thinking in rest:
        # Cut off in the middle of a thought. The text before that thought counts as thinking too:
        # dropping it would be a silent loss.
        thinking, rest = text, ""
    for tag in (tags.open_thinking, tags.close_thinking):
        thinking = thinking.replace(tag, "\n\n")
    return ParsedTrace(thinking=thinking.strip(), response=_inside_response_tags(tags, rest))


def _inside_response_tags(tags: ThinkingTags, text: str) -> str:
    for tag in (tags.open_response, tags.close_response):
        if tag is not None:
            text = text.replace(tag, "\n\n")
    return text.strip()


def split_steps(text: str, split: SplitRule = "blank_lines") -> list[str]:
    """Split a text into steps, at blank lines (the method's rule) or at line ends.

    A line of only white space counts as blank; steps are stripped and never empty.
    Raises ``ValueError`` for an unknown rule.
    """
    if split not in ("blank_lines", "lines"):
        raise InvalidArgumentError(f"split is {split!r}, expected 'blank_lines' or 'lines'")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    separator = r"\n\s*\n" if split == "blank_lines" else r"\n"
    return [step.strip() for step in re.split(separator, text) if step.strip()]


def split_trace(text: str, split: SplitRule = "blank_lines") -> tuple[list[str], list[str]]:
    """The thinking steps and response steps of a model's output. Without any thinking, the steps
    of the text are the thinking steps."""
    trace = parse_trace(text)
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
