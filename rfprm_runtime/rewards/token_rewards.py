"""Dense rewards: from the steps of a text to the tokens that a policy wrote it with.

Knows characters and their positions, but no tokenizer. Any tokenizer can give offsets, a pair of
character positions per token: for a text (``return_offsets_mapping=True``) or for the very tokens
that a policy sampled (:func:`token_offsets`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice, shown
from rfprm_runtime.ground.thinking import style_of

Placement = Literal["last", "spread"]
"""Where a step's reward goes: to its last token, or in equal parts to all of its tokens."""

# What decoders write for bytes that do not make up a character (yet): one for all of them, or one
# for each of the at most three bytes.
_INCOMPLETE = "\ufffd"
_MOST_INCOMPLETE = 3
_LONGEST_GROUP = 16
"""In tokens. A character has at most four bytes: only bytes that are no text make longer ones."""


def find_steps(text: str, steps: Sequence[str]) -> list[tuple[int, int]]:
    """The span of each step in ``text``: [start, end) in characters, in order, not overlapping.

    ``steps`` are those of ``Trajectory.from_text``: thinking first, then the response; steps may be
    missing at the end. Only white space and thinking tags may separate steps, and white space
    within a step may differ (line ends, merged steps).
    Raises ``ValueError`` for the first step that does not follow the one before it. It never
    searches further on, where the same words may belong to another step.
    """
    separators = _Separators.of(text)
    spans: list[tuple[int, int]] = []
    cursor = 0
    for index, step in enumerate(steps):
        words = step.split()
        if not words:
            raise InvalidArgumentError(
                f"step {index} (from 0) is blank, so it has no place in the text; remove it"
            )
        span = _follow(words, text, cursor, separators)
        if span is None:
            raise InvalidArgumentError(
                f"step {index} (from 0), {step[:40]!r}, is not at character {cursor} of the text, "
                f"which continues with {text[cursor : cursor + 40]!r}; pass the text that the "
                "steps were split from, and all of its steps in order"
            )
        spans.append(span)
        cursor = span[1]
    return spans


def _follow(
    words: list[str], text: str, cursor: int, separators: _Separators
) -> tuple[int, int] | None:
    """Match word by word, each after what separates it from the one before. Never goes back."""
    begin = end = cursor
    for number, word in enumerate(words):
        at = separators.skip(text, end, word)
        if (number and at == end) or not text.startswith(word, at):
            return None
        begin = at if number == 0 else begin
        end = at + len(word)
    return begin, end


@dataclass(frozen=True)
class _Separators:
    """What may come between two words without being part of a step: white space, and the tags of
    the text's style. In thinking, a response tag is a word like any other."""

    run: re.Pattern[str]
    """All separators from a place on."""
    one: re.Pattern[str]
    """A tag, or all white space from a place on."""

    @classmethod
    def of(cls, text: str) -> _Separators:
        tags = style_of(text)
        names = () if tags is None else tags.all
        one = "|".join([r"\s+", *map(re.escape, names)])
        return cls(re.compile(f"(?:{one})*", re.I), re.compile(one, re.I))

    def skip(self, text: str, at: int, word: str) -> int:
        """The end of the separators from ``at`` on; a tag that ``word`` begins with is its own."""
        if not word.startswith("<"):
            match = self.run.match(text, at)
            return at if match is None else match.end()
        match = self.one.match(text, at)
        while match is not None and not word.startswith(match.group()):
            at = match.end()
            match = self.one.match(text, at)
        return at


def token_offsets(
    token_ids: Sequence[int], decode: Callable[[list[int]], str]
) -> tuple[str, list[tuple[int, int]]]:
    """The text of sampled tokens, and the characters [start, end) that each token covers.

    Encoding the text again may give other tokens than the policy sampled, and rewards would land
    on the wrong ones. ``decode`` maps ids to text, for example
    ``lambda ids: tokenizer.decode(ids, skip_special_tokens=True)``. Tokens that each hold part of a
    character all cover the whole character; tokens that decode to nothing cover none, [n, n).

    Raises ``ValueError`` if the pieces do not add up to the text, as when ``decode`` cleans up
    spaces, or if an argument is not a list of ids or such a function.
    """
    if hasattr(decode, "decode") or not callable(decode):
        raise InvalidArgumentError(
            f"decode is {shown(decode)}, expected a function from ids to text, such as lambda ids: "
            "tokenizer.decode(ids, skip_special_tokens=True)"
        )
    if isinstance(token_ids, str) or not isinstance(token_ids, Iterable):
        raise InvalidArgumentError(f"token_ids is {shown(token_ids)}, expected a list of token ids")
    ids = list(token_ids)
    text = decode(ids)
    offsets = _Offsets(text, decode)
    for index, token in enumerate(ids):
        offsets.add(token, is_last=index + 1 == len(ids))
    if offsets.cursor != len(text):
        raise InvalidArgumentError(
            f"{len(ids)} tokens decode to {len(text)} characters together but {offsets.cursor} "
            "one by one; turn off clean-up in decode, or pass the tokenizer's own offsets"
        )
    return text, offsets.found


class _Offsets:
    """Places one token after the other in a known text.

    Tokens wait in a group until they decode to whole characters. Each is decoded with the group
    before it, because some decoders drop a leading space. Both are bounded, so that a token costs
    the same however many came before it.
    """

    def __init__(self, text: str, decode: Callable[[list[int]], str]) -> None:
        self._text, self._decode = text, decode
        self.found: list[tuple[int, int]] = []
        self.cursor = 0
        """How many characters of the text are complete."""
        self._context: list[int] = []
        self._num_known = len(decode([]))
        """How many characters of the decoded context lie before the cursor."""
        self._group: list[int] = []

    def add(self, token: int, *, is_last: bool) -> None:
        self._group.append(token)
        longer = self._decode(self._context + self._group)
        is_full = len(self._group) >= _LONGEST_GROUP
        if longer.endswith(_INCOMPLETE) and not is_last and not is_full:
            return
        piece = longer[self._num_known :]
        num_complete = len(piece) - (self._num_incomplete(piece) if not is_last else 0)
        if self._text[self.cursor : self.cursor + num_complete] != piece[:num_complete]:
            raise InvalidArgumentError(
                f"tokens {len(self.found)} to {len(self.found) + len(self._group) - 1} decode to "
                f"{piece!r}, but at character {self.cursor} the text of all tokens continues with "
                f"{self._text[self.cursor : self.cursor + 20]!r}; turn off clean-up in decode, or "
                "pass the tokenizer's own offsets"
            )
        self._place(piece, num_complete)

    def _num_incomplete(self, piece: str) -> int:
        """How many of the last characters are not whole yet: not those of the text."""
        for count in range(min(_MOST_INCOMPLETE, len(piece)) + 1):
            rest = piece[: len(piece) - count]
            if self._text.startswith(rest, self.cursor):
                return count
            if not rest.endswith(_INCOMPLETE):
                break
        return 0

    def _place(self, piece: str, num_complete: int) -> None:
        """Give the group its characters, with one that later tokens complete."""
        end = self.cursor + num_complete + (num_complete < len(piece))
        self.found += [(self.cursor, end)] * len(self._group)
        self.cursor += num_complete
        if piece:
            self._context = self._group
            self._num_known = len(self._decode(self._context)) - (len(piece) - num_complete)
        elif len(self._context) < _LONGEST_GROUP:
            # A token that only adds a leading space, which was dropped, makes the next one keep its
            # own.
            self._context = self._context + self._group
        self._group = []


def step_token_spans(
    text: str, steps: Sequence[str], offsets: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """The tokens of each step: int64 [T, 2], [first, last + 1) into ``offsets``.

    ``offsets``: the characters [start, end) of ``text`` that each token covers, in order. Tokens
    that cover none, such as special tokens' (0, 0), belong to no step, nor do tags and white space
    between steps. A token that spans several steps belongs to the first, so each token belongs to
    at most one step.

    Raises ``ValueError`` if a step is not found (:func:`find_steps`), offsets run backwards or
    beyond the text, or a step has no token of its own.
    """
    _check_offsets(text, offsets)
    spans = np.zeros((len(steps), 2), dtype=np.int64)
    token = 0
    for index, (start, end) in enumerate(find_steps(text, steps)):
        owned = []
        while token < len(offsets) and (offsets[token][0] < end or _is_empty(offsets[token])):
            if not _is_empty(offsets[token]) and offsets[token][1] > start:
                owned.append(token)
            token += 1
        if not owned:
            raise InvalidArgumentError(
                f"step {index} (from 0), characters {start} to {end}, has no token of its own "
                f"among {len(offsets)}; pass offsets for the whole text, or join the step with "
                "the one before it"
            )
        spans[index] = owned[0], owned[-1] + 1
    return spans


def _is_empty(offset: tuple[int, int]) -> bool:
    return offset[0] >= offset[1]


def _check_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> None:
    before = 0
    for index, (start, end) in enumerate(offsets):
        if start >= end:
            continue
        # Tokens that are bytes of one character have the same start.
        if start < before or end > len(text):
            raise InvalidArgumentError(
                f"token {index} covers characters {start} to {end}, but the one before it starts "
                f"at {before} and the text has {len(text)}; pass offsets into this very text, in "
                "token order"
            )
        before = start


def token_rewards(
    step_rewards: Sequence[float] | NDArray[np.floating],
    spans: NDArray[np.int64],
    num_tokens: int,
    *,
    placement: Placement = "last",
) -> NDArray[np.float64]:
    """Step rewards placed on tokens, float64 [num_tokens]; the sum stays the same.

    ``step_rewards`` [T], for example from :func:`~rfprm_runtime.rewards.step_credits`; ``spans``
    [T, 2] from :func:`step_token_spans`. Tokens of no step get 0. ``last`` rewards a step once it
    is complete; ``spread`` gives its tokens equal parts.
    Raises ``ValueError`` if there is not one span per reward, a span is empty or outside the
    tokens, or spans overlap.
    """
    check_choice("placement", placement, get_args(Placement))
    values, edges = np.asarray(step_rewards, dtype=np.float64), np.asarray(spans, dtype=np.int64)
    if values.ndim != 1 or edges.shape != (len(values), 2):
        raise InvalidArgumentError(
            f"step_rewards have shape {values.shape}, spans {edges.shape}; expected [T] and [T, 2]"
        )
    _check_spans(edges, num_tokens)
    rewards = np.zeros(num_tokens, dtype=np.float64)
    for value, (first, end) in zip(values, edges, strict=True):
        if placement == "last":
            rewards[end - 1] = value
        else:
            rewards[first:end] = value / (end - first)
    return rewards


def _check_spans(spans: NDArray[np.int64], num_tokens: int) -> None:
    before = 0
    for index, (first, end) in enumerate(spans.tolist()):
        if not before <= first < end <= num_tokens:
            raise InvalidArgumentError(
                f"step {index} (from 0) has tokens [{first}, {end}), expected at least one, from "
                f"{before} on and within {num_tokens}; take spans from step_token_spans for the "
                "same tokens"
            )
        before = end
