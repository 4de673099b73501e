from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime import InvalidTrajectoryError, Trajectory, merge_steps, parse_trace, split_steps
from rfprm_runtime.ground.thinking import THINKING_STYLES
from rfprm_runtime.traces.sources import read_records


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        ("<think>a\n\nb</think>\n\nc", "a\n\nb", "c"),
        ("a</think>c", "a", "c"),
        ("<think>a", "a", ""),
        ("intro <think>a", "intro \n\na", ""),
        ("<think>\n\n</think>\nc", "", "c"),
        ("plain", "", "plain"),
        ("<think>a</think>b<think>c</think>d", "a\n\nb\n\nc", "d"),
        ("<think>a</think>b<think>cut", "a\n\nb\n\ncut", ""),
        ("<think>a</think><answer>4</answer>", "a", "4"),
        ("<thinking>a</thinking>b", "a", "b"),
        (
            "<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>b<|end_of_solution|>",
            "a",
            "b",
        ),
        ("<|begin_of_thought|>a", "a", ""),
        (
            "<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>cut",
            "a",
            "cut",
        ),
    ],
)
def test_thinking_and_response_are_told_apart(text: str, thinking: str, response: str) -> None:
    assert parse_trace(text) == (thinking, response)


@given(st.lists(st.sampled_from(["<think>", "</think>", "word", "\n\n"]), max_size=8))
def test_no_word_is_lost_and_no_tag_is_left(parts: list[str]) -> None:
    trace = parse_trace("\n".join(parts))
    joined = f"{trace.thinking} {trace.response}"
    assert joined.count("word") == parts.count("word")
    assert "think>" not in joined


def test_steps_are_split_on_blank_lines_even_with_spaces_or_windows_line_ends() -> None:
    assert split_steps("a\nb\n\nc\n \t\n\n\nd\r\n\r\ne\n") == ["a\nb", "c", "d", "e"]


def test_steps_can_be_lines() -> None:
    assert split_steps("a\nb\n\nc", "lines") == ["a", "b", "c"]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 'blank_lines' or 'lines'"):
        split_steps("a", "sentences")  # type: ignore[arg-type]


def test_an_empty_thought_leaves_the_response_as_the_steps() -> None:
    trajectory = Trajectory.from_text("q", "<think>\n\n</think>\n\na\n\nb")
    assert trajectory.steps == ("a", "b")
    assert trajectory.response == ()


@pytest.mark.parametrize("text", ["", " \n ", "<think></think>", None, 3])
def test_a_text_without_steps_is_refused(text: str) -> None:
    with pytest.raises(InvalidTrajectoryError):
        Trajectory.from_text("q", text)


def test_surplus_steps_join_the_step_before_them() -> None:
    steps = ["count the red apples", "red apples: 3", "count the pears", "sum it up"]
    response = ["There are 3 red apples", "Then come the pears", "The sum is 7"]
    assert merge_steps(steps, response) == [
        "count the red apples\n\nred apples: 3",
        "count the pears",
        "sum it up",
    ]


def test_a_tie_merges_the_later_step() -> None:
    assert merge_steps(["a", "b", "c"], ["x", "y"], similarity=lambda s, a: 0.0) == [
        "a",
        "b\n\nc",
    ] or merge_steps(["a", "b", "c"], ["x", "y"], similarity=lambda s, a: 0.0) == ["a\n\nb", "c"]


@pytest.mark.parametrize("response", [[], ["x", "y", "z"], ["1", "2", "3", "4"]])
def test_nothing_is_merged_without_a_surplus(response: list[str]) -> None:
    assert merge_steps(["a", "b", "c"], response) == ["a", "b", "c"]


@given(
    st.lists(st.text("abc ", min_size=1, max_size=6), min_size=1, max_size=12),
    st.lists(st.text("abc ", min_size=1, max_size=6), min_size=1, max_size=6),
)
def test_merging_gives_one_group_a_response_step_and_keeps_the_text(
    steps: list[str], response: list[str]
) -> None:
    merged = merge_steps(steps, response)
    assert len(merged) == min(len(steps), len(response)) or len(steps) <= len(response)
    assert "\n\n".join(merged) == "\n\n".join(steps)


def test_all_real_long_traces_parse(shared_data: Path) -> None:
    lines = list(read_records(str(shared_data / "long_cot_aime24.jsonl")))
    assert len(lines) == 30
    tags = [tag for style in THINKING_STYLES for tag in style.all]
    for line in lines:
        assert isinstance(line.trajectory, Trajectory)
        text = line.fields["completion"]
        assert len(line.trajectory.steps) > 30
        assert bool(line.trajectory.response) == ("<|begin_of_solution|>" in text)
        written = "".join(line.trajectory.steps + line.trajectory.response)
        assert not any(tag in written for tag in tags)
        for tag in tags:
            text = text.replace(tag, "")
        assert "".join(written.split()) == "".join(text.split())
