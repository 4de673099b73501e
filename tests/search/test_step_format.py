"""A policy's text becomes a step."""

from __future__ import annotations

import pytest

from rfprm_runtime.search import Proposal
from rfprm_runtime.search.step_format import StepFormat


def _step(text: str, *, finished: bool = False) -> Proposal:
    return Proposal(text, 7, finished=finished)


@pytest.mark.parametrize(
    ("continuation", "ended", "expected"),
    [
        ("6 * 7 = 42.\n\nSo", False, _step("6 * 7 = 42.")),
        ("\n\n6 * 7 = 42.\n\n", False, _step("6 * 7 = 42.")),
        ("cut in the mid", False, _step("cut in the mid")),
        ("cut, who knows", None, _step("cut, who knows")),
        ("the end.", True, _step("the end.", finished=True)),
        # The policy continued after the separator, so this step did not end the trace.
        ("a step\n\nand the end", True, _step("a step")),
        ("", True, _step("", finished=True)),
        ("", None, _step("", finished=True)),
        ("", False, None),
        ("\n\n", None, None),
        (" \n ", False, None),
        ("#### 42\n\n", False, _step("#### 42", finished=True)),
    ],
)
def test_a_step_ends_at_the_separator(
    continuation: str, ended: bool | None, expected: Proposal | None
) -> None:
    style = StepFormat(is_final=lambda step: step.startswith("####"))
    assert style.read(continuation, 7, ended=ended) == expected


@pytest.mark.parametrize("ended", [True, False, None])
def test_thinking_ends_at_its_tag(ended: bool | None) -> None:
    style = StepFormat(close_thinking="</think>")
    assert style.read("So 42.\n</think>\nIt", 7, ended=ended) == _step("So 42.", finished=True)
    assert style.read("</think>", 7, ended=ended) == _step("", finished=True)


def test_the_prompt_ends_with_the_steps() -> None:
    style = StepFormat(lambda question, so_far: f"<{question}>{so_far}", separator="\n")
    assert style.prompt_for("6 * 7?", ()) == "<6 * 7?>"
    assert style.prompt_for("6 * 7?", ("a", "b")) == "<6 * 7?>a\nb\n"
