"""Thinking and response as models, templates and their mistakes write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime import Trajectory, parse_trace, split_steps
from rfprm_runtime.ground.thinking import THINKING_STYLES, opening_in, style_of
from rfprm_runtime.rewards import step_token_spans

HARMONY = (
    "<|channel|>analysis<|message|>3 * 4 = 12<|end|><|start|>assistant"
    "<|channel|>final<|message|>It is 12.<|return|>"
)


@pytest.mark.parametrize(
    "text",
    [
        "<THINK>3 * 4 = 12</THINK>It is 12.",
        "<thought>3 * 4 = 12</thought>It is 12.",
        "<reasoning>\n3 * 4 = 12\n</reasoning>\n<answer>\nIt is 12.\n</answer>\n",
        "[THINK]3 * 4 = 12[/THINK]It is 12.",
        "<|start_thought|>3 * 4 = 12<|end_thought|>It is 12.",
        "◁think▷3 * 4 = 12◁/think▷It is 12.",
        "3 * 4 = 12\n\n<answer>It is 12.</answer>",
        HARMONY,
        # a closing tag too many, and tags that a sentence mentions
        "<think>3 * 4 = 12</think>\n\nIt is 12.\n</think>",
        "3 * 4 = 12</think>\n\nIt is 12.\n</think>\n",
        "<think><think>3 * 4 = 12</think></think>It is 12.",
    ],
)
def test_every_style_says_the_same(text: str) -> None:
    assert parse_trace(text) == ("3 * 4 = 12", "It is 12.")


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        (
            "<think>a</think>\n\nIt is 12. (I ended my thoughts with </think>.)",
            "a",
            "It is 12. (I ended my thoughts with </think>.)",
        ),
        (
            "I open the tag `<think>` first. It is 12.",
            "",
            "I open the tag `<think>` first. It is 12.",
        ),
        ("I write a <think> tag. It is 12.", "", "I write a <think> tag. It is 12."),
        (
            "<think>The tag `</think>` ends it.\n\n3 * 4 = 12</think>It is 12.",
            "The tag `</think>` ends it.\n\n3 * 4 = 12",
            "It is 12.",
        ),
        ("<think>a <think> b</think>c", "a \n\n b", "c"),
        ("Sure! <think>a", "Sure! \n\na", ""),
        ("<think>a</think>b\n<think>cut off", "a\n\nb\n\n\ncut off", ""),
        ('It says "<answer>" there.', "", 'It says "<answer>" there.'),
        ("<answer>12</answer>", "", "12"),
        ("<|channel|>analysis<|message|>cut off", "cut off", ""),
        ("İİ<answer>12</answer>", "İİ", "12"),
    ],
)
def test_tags_end_what_they_end(text: str, thinking: str, response: str) -> None:
    assert parse_trace(text) == (thinking, response)


@pytest.mark.parametrize("style", THINKING_STYLES, ids=lambda style: style.open_thinking)
def test_a_prompt_that_opens_a_thought_is_judged_with_its_completion(style: object) -> None:
    assert hasattr(style, "open_thinking")
    prompt = f"<|im_start|>assistant\n{style.open_thinking}\n"
    assert opening_in(prompt) == style.open_thinking
    assert parse_trace("3 * 4 = 12", prompt=prompt) == ("3 * 4 = 12", "")
    closed = f"a{style.close_thinking}b"  # type: ignore[attr-defined]
    assert parse_trace(closed, prompt=prompt) == parse_trace(closed) == ("a", "b")
    found = Trajectory.from_text("q", "3 * 4 = 12", prompt=prompt)
    assert (found.steps, found.response) == (("3 * 4 = 12",), ())
    assert parse_trace("12", prompt="What is a <think>?") == ("", "12")


TAGS = [tag for style in THINKING_STYLES for tag in style.all]


@given(st.lists(st.sampled_from([*TAGS, "word", "\n\n", " ", ".", "`"]), max_size=12))
def test_no_word_is_lost_whatever_the_tags(parts: list[str]) -> None:
    trace = parse_trace("".join(parts))
    joined = f"{trace.thinking} {trace.response}"
    assert joined.count("word") == parts.count("word")


@given(st.lists(st.sampled_from([*TAGS, "word", "\n\n"]), max_size=12))
def test_steps_are_found_in_their_text(parts: list[str]) -> None:
    text = " ".join(parts)
    trace = parse_trace(text)
    steps = [*split_steps(trace.thinking), *split_steps(trace.response)]
    if style_of(text) is not None and steps:
        spans = step_token_spans(text, steps, [(i, i + 1) for i in range(len(text))])
        assert len(spans) == len(steps)


CODE = "Run this:\n\n```python\na = 3\n\nb = 4\n```"
MATH = "$$\n3 * 4\n\n= 12\n$$"


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (f"{CODE}\n\nIt is 12.", ["Run this:", CODE[11:], "It is 12."]),
        (f"{MATH}\n\nIt is 12.", [MATH, "It is 12."]),
        ("\\[\n3 * 4\n\n= 12\n\\]\n\nb", ["\\[\n3 * 4\n\n= 12\n\\]", "b"]),
        (
            "\\begin{align*}\na\n\nb\n\\end{align*}\n\nc",
            ["\\begin{align*}\na\n\nb\n\\end{align*}", "c"],
        ),
        ("~~~\na\n\nb\n~~~\n\nc", ["~~~\na\n\nb\n~~~", "c"]),
        # never closed, or no block at all
        ("```\na\n\nb", ["```\na", "b"]),
        ("$$\na\n\nb", ["$$\na", "b"]),
        ("It costs $$ a\n\nand $$ b", ["It costs $$ a", "and $$ b"]),
        ("\\[ a\n\nb", ["\\[ a", "b"]),
        ("\\begin{proof}\na\n\nb\n\\end{proof}", ["\\begin{proof}\na", "b\n\\end{proof}"]),
        ("$$ a $$\n\nb\n\n$$ c $$", ["$$ a $$", "b", "$$ c $$"]),
    ],
)
def test_code_and_display_math_stay_whole(text: str, steps: list[str]) -> None:
    assert split_steps(text) == steps


def test_lines_keep_blocks_whole_too() -> None:
    assert split_steps(f"{MATH}\nso 12\nDone.", "lines") == [MATH, "so 12", "Done."]
