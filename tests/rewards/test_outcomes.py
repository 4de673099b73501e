"""Outcome rewards: acceptable answers, and what is left undecided."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rfprm_runtime.answers import AnswerRules
from rfprm_runtime.answers.checker import Verdicts
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.rewards.outcomes import Outcome, judge_completions


class _Checker:
    """Finds equal texts the same, and has no time for a formula of z."""

    num_undecided = 7

    def agree_all(self, answers: list[str], targets: list[str], *, budget: float) -> Verdicts:
        pairs = list(zip(answers, targets, strict=True))
        agree: list[bool | None] = [None if t == "unreadable" else a == t for a, t in pairs]
        return Verdicts(agree, sum("z" in answer for answer in answers))


def _judge(completions: list[Any], targets: list[Any]) -> list[Outcome]:
    return judge_completions(
        completions,
        targets,
        _Checker(),
        rules=AnswerRules(),
        budget=3.0,  # type: ignore[arg-type]
    )


def test_any_acceptable_answer_is_right() -> None:
    texts = ["The answer is 5.", "The answer is 6.", "The answer is 7."]
    targets = [["4", "5"], {"target": [6.0]}, "#### 8"]
    assert _judge(texts, targets) == [1.0, 1.0, 0.0]


def test_without_a_target_or_a_text_the_outcome_is_unknown() -> None:
    error = InvalidTrajectoryError("broken")
    found = _judge(["It is 5.", error, "No idea.", "It is 5."], [None, "5", "5", "unreadable"])
    assert found == [None, None, 0.0, None]


def test_what_is_undecided_is_wrong_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert _judge([r"\boxed{z^z}", "It is 5."], ["x", "5"]) == [0.0, 1.0]
    assert "1 of 2 comparisons of answers were undecided after 3 s" in caplog.text
    assert "7 since the start" in caplog.text
