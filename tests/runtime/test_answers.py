"""Whether two answers are the same: what spelling decides, and what is left to algebra."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.killable_worker import BoundedWorker
from rfprm_runtime.traces.known import reference_answer
from rfprm_runtime.types import Trajectory
from traces.one_row import trajectories_of


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("1,200", "1200"),
        ("$3.50", "3.5"),
        ("12 apples", "12"),
        ("12 Minutes.", "12 minute"),
        ("40%", "40"),
        ("x + 1", "$x+1$"),
        (r"\text{Monday}", "monday."),
        ("**B**", "B"),
        ("north  west", "North west"),
    ],
)
def test_spellings_of_one_answer_agree(answer: str, target: str) -> None:
    assert answers_agree(answer, target) is True


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("2x", "x+x"),
        (r"\frac{x}{2}", "0.5x"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("x=2y", "y=x/2"),
        (r"1, \sqrt{4}", "1, 2"),
    ],
)
def test_verify_decides_about_formulas(answer: str, target: str) -> None:
    assert answers_agree(answer, target) is None
    asked: list[tuple[str, str]] = []

    def verify(*texts: str) -> bool:
        asked.append(texts)  # type: ignore[arg-type]
        return False

    assert answers_agree(answer, target, verify=verify) is False
    assert asked == [(answer, target)]


@pytest.mark.parametrize(
    ("answer", "target"),
    [
        ("x=1.5", "x=15"),
        ("x=5", "y=5"),
        ("1,2", "12"),
        ("1,2,3", "123"),
        ("1 2", "12"),
        ("12 minutes", "12 hours"),
        ("odd", "dod"),
        ("2^x=8", "8"),
        ("1011_2", "1011_3"),
    ],
)
def test_what_differs_in_plain_sight_needs_no_algebra(answer: str, target: str) -> None:
    for one, other in ((answer, target), (target, answer)):
        assert answers_agree(one, other, verify=lambda *_: pytest.fail("was asked")) is False


def test_a_numpy_verdict_counts() -> None:
    assert answers_agree("a+1", "b+1", verify=lambda a, b: np.bool_(True)) is True
    assert answers_agree("a+1", "b+1", verify=lambda a, b: None) is None


def test_endless_repetition_is_not_a_number() -> None:
    """Endless digits and line ends each once took seconds of backtracking."""
    assert answers_agree("1" * 100_000 + "!", "1") is None
    assert final_answer("The answer is" + "\n" * 100_000) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1234567.0, "1234567"),
        (0.123456789, "0.123456789"),
        (7, "7"),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_reference_answers_of_a_column_of_floats(value: float, expected: str | None) -> None:
    [found] = trajectories_of({"question": "q", "steps": ["a"], "target": value})
    assert isinstance(found, Trajectory)
    assert reference_answer(found) == expected
    if expected is not None:
        assert Fraction(expected) == Fraction(str(value))


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "of the chat"},
]


@pytest.mark.parametrize(
    "more",
    [
        {"messages": CHAT},
        {"messages": CHAT[1:]},  # as many messages as generations
        {"question": "2 + 2?", "messages": CHAT},
        {"question": "2 + 2?", "thinking": "of another", "response": "5"},
        {"question": "2 + 2?", "steps": ["of another"]},
    ],
)
def test_each_generation_is_a_trace_of_its_own(more: dict[str, Any]) -> None:
    row = {**more, "generations": ["First.\n\nIt is 4.", "It is 5."], "is_correct": [True, False]}
    found = [item for item in trajectories_of(row) if isinstance(item, Trajectory)]
    assert [item.steps for item in found] == [("First.", "It is 4."), ("It is 5.",)]
    assert [item.outcome for item in found] == [True, False]
    assert {item.question for item in found} == {"2 + 2?"}


def test_each_generation_keeps_its_own_thinking() -> None:
    row = {"question": "q", "thinking": ["a", "b"], "generations": ["1", "2"]}
    found = [item for item in trajectories_of(row) if isinstance(item, Trajectory)]
    assert [item.steps for item in found] == [("a",), ("b",)]
    assert [item.response for item in found] == [("1",), ("2",)]


def test_the_child_process_imports_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be a folder of data: a checkpoint, or traces."""
    ran = tmp_path / "ran"
    for name in ("json", "queue", "numpy", "rfprm_runtime", "bounded_helper"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    worker = BoundedWorker("bounded_helper:slowly", 60)
    try:
        assert worker("a") == "a"
    finally:
        worker.close()
    assert not ran.exists()
