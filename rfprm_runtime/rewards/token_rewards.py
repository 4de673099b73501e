"""Dense rewards: from the steps of a text to the tokens that a policy wrote it with.

Knows characters and their positions, but no tokenizer. Any tokenizer can give offsets, a pair of
character positions per token: for a text (``return_offsets_mapping=True``) or for the very tokens
that a policy sampled (:func:`token_offsets`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice, shown
from rfprm_runtime.ground.parsing import THINKING_STYLES

Placement = Literal["last", "spread"]
"""Where a step's reward goes: to its last token, or in equal parts to all of its tokens."""

# What decoders write for bytes that do not make up a character (yet).
_INCOMPLETE = "\ufffd"


def find_steps(text: str, steps: Sequence[str]) -> list[tuple[int, int]]:
    """The span of each step in ``text``: [start, end) in characters, in order, not overlapping.

    ``steps`` are those of ``Trajectory.from_text``: thinking first, then the response; steps may be
    missing at the end. Only white space and thinking tags may separate steps, and white space
    within a step may differ (line ends, merged steps).
    Raises ``ValueError`` for the first step that does not follow the one before it. It never
    searches further on, where the same words may belong to another step.
    """
    gap = _gap(text)
    gaps = re.compile(f"{gap}+")
    spans: list[tuple[int, int]] = []
    cursor = 0
    for index, step in enumerate(steps):
        words = step.split()
        if not words:
            raise InvalidArgumentError(
                f"step {index} (from 0) is blank, so it has no place in the text; remove it"
            )
        span = _follow(words, text, cursor, gaps) or _search(words, text, cursor, gap)
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
    words: list[str], text: str, cursor: int, gaps: re.Pattern[str]
) -> tuple[int, int] | None:
    """Match word by word, each after all of the gap before it. This finds nearly every step."""
    begin = end = cursor
    for number, word in enumerate(words):
        gap = gaps.match(text, end)
        at = end if gap is None else gap.end()
        if (number and at == end) or not text.startswith(word, at):
            return None
        begin = at if number == 0 else begin
        end = at + len(word)
    return begin, end


def _search(words: list[str], text: str, cursor: int, gap: str) -> tuple[int, int] | None:
    """Try every division into gaps and words, because a step may spell a tag that could be a gap.
    Slower: compiling a pattern takes time that grows with the step."""
    pattern = f"{gap}*({f'{gap}+'.join(map(re.escape, words))})"
    match = re.compile(pattern).match(text, cursor)
    return None if match is None else match.span(1)


def _gap(text: str) -> str:
    """A pattern for what may come between two words without being part of a step."""
    for tags in THINKING_STYLES:
        if tags.open_thinking in text or tags.close_thinking in text:
            names = (
                tags.open_thinking, tags.close_thinking, tags.open_response, tags.close_response,
            )  # fmt: skip
            return f"(?:{'|'.join([chr(92) + 's', *(re.escape(tag) for tag in names if tag)])})"
    return r"(?:\s)"


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
    offsets: list[tuple[int, int]] = []
    before, cursor = 0, 0
    for index in range(len(ids)):
        # Decode with the tokens before: some decoders drop a leading space.
        first = len(offsets)
        known, longer = decode(ids[before:first]), decode(ids[before : index + 1])
        if longer.endswith(_INCOMPLETE) and index + 1 < len(ids):
            continue
        end = cursor + len(longer) - len(known)
        if text[cursor:end] != longer[len(known) :]:
            raise InvalidArgumentError(
                f"tokens {first} to {index} decode to {longer[len(known) :]!r}, but at character "
                f"{cursor} the text of all tokens continues with {text[cursor : cursor + 20]!r}; "
                "turn off clean-up in decode, or pass the tokenizer's own offsets"
            )
        offsets += [(cursor, end)] * (index + 1 - first)
        if end > cursor:
            before, cursor = first, end
    if cursor != len(text):
        raise InvalidArgumentError(
            f"{len(ids)} tokens decode to {len(text)} characters together but {cursor} one by one; "
            "turn off clean-up in decode, or pass the tokenizer's own offsets"
        )
    return text, offsets


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
