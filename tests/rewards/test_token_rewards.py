"""Steps found in a policy's text, and their rewards placed on its tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rfprm_runtime import InvalidTrajectoryError, Trajectory
from rfprm_runtime.rewards.token_rewards import (
    find_steps,
    step_token_spans,
    token_offsets,
    token_rewards,
)
from tiny_models import byte_tokenizer

words = st.sampled_from(["so", "3 + 4 = 7", "é", "数字", "🙂🙂", "the the", "<answer>x", "think"])
step_texts = st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=6)
STYLES = [
    "{0}",
    "<think>{0}</think>\n{1}",
    "<think>\n{0}\n</think>\n\n<answer>{1}</answer>",
    "{0}\n",
]


def _written(steps: list[str], style: str, newline: str) -> str:
    thinking, response = f"{newline}{newline}".join(steps), "The answer is 7."
    return style.format(thinking, response)


def _offsets(text: str, cuts: set[int]) -> list[tuple[int, int]]:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return list(pairwise(edges))


@given(step_texts, st.sampled_from(STYLES), st.sampled_from(["\n", "\r\n", "\n \n"]))
def test_steps_are_found_where_they_were_written(
    steps: list[str], style: str, newline: str
) -> None:
    text = _written(steps, style, newline)
    trajectory = Trajectory.from_text("q", text)
    parts = [*trajectory.steps, *trajectory.response]
    spans = find_steps(text, parts)
    assert ["".join(text[a:b].split()) for a, b in spans] == ["".join(s.split()) for s in parts]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@given(step_texts, st.sampled_from(STYLES), st.sets(st.integers(1, 200)), st.data())
def test_token_rewards_sum_to_step_rewards_and_a_token_has_one_step(
    steps: list[str], style: str, cuts: set[int], data: st.DataObject
) -> None:
    text = _written(steps, style, "\n")
    trajectory = Trajectory.from_text("q", text)
    offsets = _offsets(text, cuts)
    try:
        spans = step_token_spans(text, trajectory.steps, offsets)
    except ValueError as error:
        if "no token of its own" not in str(error):
            raise
        assume(False)
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    values = data.draw(st.lists(st.floats(-1, 1), min_size=len(spans), max_size=len(spans)))
    for placement in ("last", "spread"):
        rewards = token_rewards(values, spans, len(offsets), placement=placement)  # type: ignore[arg-type]
        assert rewards.shape == (len(offsets),)
        assert rewards.sum() == pytest.approx(sum(values), abs=1e-9)
        for value, (first, end) in zip(values, spans, strict=True):
            assert rewards[first:end].sum() == pytest.approx(value, abs=1e-9)


@given(step_texts, st.sampled_from(STYLES))
def test_a_real_tokenizer_covers_every_step(steps: list[str], style: str) -> None:
    """Byte-level: characters of several bytes are several tokens with the same offsets."""
    text = _written(steps, style, "\n")
    encoding = byte_tokenizer().encode(text)
    trajectory = Trajectory.from_text("q", text)
    parts = [*trajectory.steps, *trajectory.response]
    spans = step_token_spans(text, parts, encoding.offsets)
    for part, (first, end) in zip(parts, spans, strict=True):
        covered = text[encoding.offsets[first][0] : encoding.offsets[end - 1][1]]
        assert covered.strip() == part


def _decode(ids: list[int]) -> str:
    return str(byte_tokenizer().decode(ids, skip_special_tokens=True))


@given(step_texts, st.sampled_from(STYLES))
def test_offsets_of_sampled_tokens_match_the_tokenizer(steps: list[str], style: str) -> None:
    written = _written(steps, style, "\n")
    encoding = byte_tokenizer().encode(written)
    text, offsets = token_offsets(encoding.ids, _decode)
    assert text == written
    assert offsets == encoding.offsets


@pytest.mark.parametrize("split", ["blank_lines", "lines"])
@pytest.mark.parametrize(
    "written",
    [
        "<think>\n数字 🙂.\n\nSo é.\n</think>\n\n<answer>42</answer>",
        "[THINK]one\n\ntwo[/THINK]a\nb",
        "A <think> is a tag.\n\n\\[ x\n\n= 1 \\]\n\n- p\n- q",
    ],
)
def test_tokens_line_up_wherever_a_completion_is_cut_off(written: str, split: Any) -> None:
    ids = byte_tokenizer().encode(written).ids
    num_scored = 0
    for length in range(1, len(ids) + 1):
        text, offsets = token_offsets(ids[:length], _decode)
        try:
            trajectory = Trajectory.from_text("q", text, split=split)
        except InvalidTrajectoryError:  # nothing but a tag so far
            continue
        spans = step_token_spans(text, [*trajectory.steps, *trajectory.response], offsets)
        assert spans[-1][1] <= length
        assert text[offsets[spans[-1][0]][0] :].startswith(
            (*trajectory.steps, *trajectory.response)[-1].split()[0]
        )
        num_scored += 1
    assert num_scored > len(ids) / 2


def test_sampled_tokens_that_encoding_would_not_give_get_offsets() -> None:
    tokenizer = byte_tokenizer()
    tokens = ("t", "h", "e", "th", "<|im_end|>", "e", "h", "e")
    ids = [tokenizer.token_to_id(token) for token in tokens]
    text, offsets = token_offsets(ids, _decode)
    assert (text, len(tokenizer.encode(text).ids)) == ("thethehe", 4)
    assert offsets == [(0, 1), (1, 2), (2, 3), (3, 5), (5, 5), (5, 6), (6, 7), (7, 8)]


@given(st.lists(st.integers(0, 255), max_size=12))
def test_invalid_bytes_get_offsets_too(ids: list[int]) -> None:
    text, offsets = token_offsets(ids, _decode)
    assert len(offsets) == len(ids)
    edges = [0, *(edge for offset in offsets for edge in offset)]
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert edges[-1] == len(text)
    assert [a for a, _ in offsets] == sorted(a for a, _ in offsets)


def test_a_decoder_may_strip_the_first_space() -> None:
    words = ["<s>", " the", " cat", " sat"]
    text, offsets = token_offsets([0, 1, 2, 3], lambda ids: "".join(words[i] for i in ids if i)[1:])
    assert text == "the cat sat"
    assert offsets == [(0, 0), (0, 3), (3, 7), (7, 11)]


def test_a_tokenizer_is_not_a_decode_function() -> None:
    for decode in (byte_tokenizer(), [1, 2]):
        with pytest.raises(ValueError, match=r"decode is of the class .*, expected .* lambda ids"):
            token_offsets([1, 2], decode)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token_ids is of the class Tokenizer, expected a list"):
        token_offsets(byte_tokenizer(), _decode)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda ids: "".join(str(i) for i in ids[::-1]), "tokens 0 to 0 decode to '1', but"),
        (lambda ids: "1" * max(len(ids), 1), "2 characters together but 1 one by one"),
    ],
)
def test_a_decoder_that_rewrites_is_refused(decode: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_offsets([1, 2], decode)


def test_identical_steps_are_told_apart_by_their_order() -> None:
    text = "wait\n\nwait\n\nso wait"
    assert find_steps(text, ["wait", "wait", "so wait"]) == [(0, 4), (6, 10), (12, 19)]


def test_tags_and_white_space_between_steps_belong_to_no_step() -> None:
    text = "<think>\n1 + 1 = 2\n\nso 2</think>\nIt is 2.<|im_end|>"
    encoding = byte_tokenizer().encode(text)
    spans = step_token_spans(text, ["1 + 1 = 2", "so 2", "It is 2."], encoding.offsets)
    rewards = token_rewards([0.5, 0.25, 1.0], spans, len(encoding.ids), placement="spread")
    outside = [text[a:b] for (a, b), r in zip(encoding.offsets, rewards, strict=True) if r == 0.0]
    assert "".join(outside).split() == ["<think>", "</think>", "<|im_end|>"]


def test_merged_steps_are_found_across_their_blank_line() -> None:
    assert find_steps("a\n\n\nb\n\nc", ["a\n\nb", "c"]) == [(0, 5), (7, 8)]


def test_special_tokens_without_characters_belong_to_no_step() -> None:
    spans = step_token_spans("ab\n\nc", ["ab", "c"], [(0, 0), (0, 1), (1, 2), (2, 5), (0, 0)])
    assert spans.tolist() == [[1, 3], [3, 4]]


def test_a_token_across_two_steps_belongs_to_the_first() -> None:
    spans = step_token_spans("ab\n\ncd", ["ab", "cd"], [(0, 1), (1, 5), (5, 6)])
    assert spans.tolist() == [[0, 2], [2, 3]]


@pytest.mark.parametrize(
    ("text", "steps", "message"),
    [
        ("a\n\nb", ["b"], "step 0 .* is not at character 0"),
        ("a\n\nx\n\nb", ["a", "b"], "step 1 .* continues with"),
        ("a", ["a", "b"], "step 1"),
        ("a", [" "], "step 0 .* is blank"),
    ],
)
def test_a_step_that_does_not_follow_is_refused(text: str, steps: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_steps(text, steps)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([(0, 1), (4, 5), (1, 2)], "token 2 covers characters 1 to 2"),
        ([(0, 9)], "the text has 5"),
        ([(0, 5)], "step 1 .* has no token of its own among 1"),
        ([(0, 2)], "step 1 .* has no token of its own"),
    ],
)
def test_offsets_of_another_text_are_refused(offsets: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_token_spans("ab\n\nc", ["ab", "c"], offsets)


@pytest.mark.parametrize(
    ("values", "spans", "message"),
    [
        ([0.5], [[0, 1], [1, 2]], r"expected \[T\] and \[T, 2\]"),
        ([0.5, 0.5], [[0, 2], [1, 3]], r"step 1 .* has tokens \[1, 3\)"),
        ([0.5], [[1, 1]], "at least one"),
        ([0.5], [[0, 9]], "within 4"),
    ],
)
def test_spans_that_would_lose_a_reward_are_refused(
    values: list[float], spans: list[list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        token_rewards(values, np.array(spans), 4)
    with pytest.raises(ValueError, match="placement is 'first'"):
        token_rewards(values, np.array(spans), 4, placement="first")  # type: ignore[arg-type]
