"""Where a model's thinking ends and its response begins.

Knows the tags that reasoning models use, as a table; knows nothing about steps or scoring.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class ParsedTrace(NamedTuple):
    """The two halves of a reasoning trace; either may be empty."""

    thinking: str
    response: str


@dataclass(frozen=True)
class ThinkingTags:
    """How one family of models delimits its thinking, and its final answer if it does."""

    open_thinking: str
    close_thinking: str
    response_tags: tuple[str, ...] = ()
    """Tags around the response, and others between the two, which say nothing."""

    @property
    def all(self) -> tuple[str, ...]:
        """Every tag of the style."""
        return (self.open_thinking, self.close_thinking, *self.response_tags)

    @cached_property
    def thinking_pattern(self) -> re.Pattern[str]:
        """Opening (group 1) and closing tags."""
        either = f"({re.escape(self.open_thinking)})|{re.escape(self.close_thinking)}"
        return re.compile(either, re.IGNORECASE)

    @cached_property
    def response_pattern(self) -> re.Pattern[str]:
        """Tags that the response has around it, an orphan closing tag of the thinking included."""
        tags = (self.close_thinking, *self.response_tags)
        return re.compile("|".join(map(re.escape, tags)), re.IGNORECASE)


_ANSWER = ("<answer>", "</answer>")
# Tried in order; a text has the first style whose thinking tags it contains.
THINKING_STYLES = (
    ThinkingTags(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    ThinkingTags("<|start_thought|>", "<|end_thought|>"),
    ThinkingTags(  # gpt-oss
        "<|channel|>analysis<|message|>",
        "<|end|>",
        (
            "<|start|>assistant",
            "<|channel|>commentary<|message|>",
            "<|channel|>final<|message|>",
            "<|return|>",
        ),
    ),
    ThinkingTags("<think>", "</think>", _ANSWER),
    ThinkingTags("<thinking>", "</thinking>", _ANSWER),
    ThinkingTags("<thought>", "</thought>", _ANSWER),
    ThinkingTags("<reasoning>", "</reasoning>", _ANSWER),
    ThinkingTags("<reflection>", "</reflection>", _ANSWER),
    ThinkingTags("[THINK]", "[/THINK]"),  # Magistral
    ThinkingTags("◁think▷", "◁/think▷"),  # Kimi
    ThinkingTags("<seed:think>", "</seed:think>"),
)
# A text without thinking tags may still mark its answer: what comes before it is the thinking.
_ANSWER_ALONE = ThinkingTags("<answer>", "</answer>")

_QUOTES = "`\"'“”‘’«»"
# What follows a tag that a sentence mentions, and never one that ends a thought.
_AFTER_MENTION = re.compile(r"\s?[.,;:!?)\]]|\s(?:tags?|tokens?|marker)\b")


def parse_trace(text: str, *, prompt: str = "") -> ParsedTrace:
    """Separate thinking from response.

    ``prompt``: what the text continues. If it ends with an opening tag, as chat templates for
    reasoning models do, the text begins with a thought.

    A closing tag without an opening one ends the thinking too; an opening tag without a closing one
    means that generation was cut off, so the rest is all thinking. If thinking and text alternate,
    everything up to the last closing tag is thinking, and inner tags become blank lines. A closing
    tag too many, behind a response, and tags that a sentence mentions end nothing. A text without
    tags is all response.
    """
    text = opening_in(prompt) + text
    tags = style_of(text)
    if tags is None:
        return ParsedTrace("", text)
    if tags is _ANSWER_ALONE:
        marks = _ANSWER_ALONE.thinking_pattern
        start = _first(marks, text)
        return ParsedTrace(text[:start].strip(), _without(marks, text[start:]))
    end = _end_of_thinking(tags, text)
    thinking, response = text[:end], text[end:]
    if tags.response_tags and tags.response_tags[0] not in _ANSWER:
        thinking = _without(tags.response_pattern, thinking)
    return ParsedTrace(
        _without(tags.thinking_pattern, thinking), _without(tags.response_pattern, response)
    )


def opening_in(prompt: str) -> str:
    """The tag that a prompt ends with and that opens a thought; empty if there is none."""
    end = prompt[-80:].rstrip().lower()
    names = (tags.open_thinking for tags in THINKING_STYLES)
    return next((name for name in names if end.endswith(name.lower())), "")


def style_of(text: str) -> ThinkingTags | None:
    """The style whose tags structure ``text``, None if there is none."""
    lower = text.lower() if "<" in text or "[" in text or "◁" in text else ""
    for tags in THINKING_STYLES if lower else ():
        is_there = tags.open_thinking.lower() in lower or tags.close_thinking.lower() in lower
        if is_there and _end_of_thinking(tags, text):
            return tags
    is_marked = "<answer>" in lower and _first(_ANSWER_ALONE.thinking_pattern, text) < len(text)
    return _ANSWER_ALONE if is_marked else None


def _first(pattern: re.Pattern[str], text: str) -> int:
    """Where the first tag is that is no mention; the length if there is none."""
    places = (m.start() for m in pattern.finditer(text) if not _is_mention(text, *m.span()))
    return next(places, len(text))


def _end_of_thinking(tags: ThinkingTags, text: str) -> int:
    """Where the response begins: 0 if nothing is thinking, the length if all of it is."""
    end = depth = 0
    is_first, last_open = True, -1
    for found in tags.thinking_pattern.finditer(text):
        opens = found[1] is not None
        if _is_mention(text, *found.span()):
            continue
        if opens:
            depth, last_open = depth + 1, found.start()
        elif depth or is_first:
            depth, end = max(0, depth - 1), found.end()
        is_first = False
    is_cut_off = depth and last_open >= end and not _is_word_of_a_sentence(tags, text, last_open)
    return len(text) if is_cut_off else end


def _is_mention(text: str, start: int, end: int) -> bool:
    """Whether a sentence speaks of a tag: it is quoted, or the sentence goes on behind it."""
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if before and before in _QUOTES and after and after in _QUOTES:
        return True
    in_a_line = before not in ("", "\n") and start > 0
    return in_a_line and _AFTER_MENTION.match(text, end) is not None


def _is_word_of_a_sentence(tags: ThinkingTags, text: str, at: int) -> bool:
    """Whether an opening tag without a closing one stands between words, as in *the <think> tag*,
    and not where a model begins to think."""
    before = text[text.rfind("\n", 0, at) + 1 : at]
    after = text[at + len(tags.open_thinking) :][:2]
    is_amid = before[-1:] == " " and before.rstrip()[-1:].isalnum()
    return is_amid and after[:1] == " " and after[1:].isalnum()


def _without(pattern: re.Pattern[str], text: str) -> str:
    """``text`` with blank lines for the tags that it does not merely mention."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if _is_mention(text, *found.span()) else "\n\n"

    return pattern.sub(blank, text).strip()
