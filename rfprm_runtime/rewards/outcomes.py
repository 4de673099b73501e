"""Whether completions end with the right answer, all of them within one budget of time.

Knows answers and thoughts; knows no scorers and no RL stack.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.references import acceptable_answers
from rfprm_runtime.answers.rules import AnswerRules
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.thinking import parse_trace

_logger = logging.getLogger(__name__)
Outcome = float | None


def judge_completions(
    completions: Sequence[str | RfprmError],
    targets: Sequence[Any],
    checker: AnswerChecker,
    *,
    rules: AnswerRules,
    budget: float,
) -> list[Outcome]:
    """1 for each completion whose final answer is an acceptable one, else 0; None if the completion
    or the target cannot be read. What is undecided after ``budget`` seconds is 0, with a warning
    that counts it. Raises like :func:`~rfprm_runtime.answers.references.acceptable_answers`.
    """
    acceptable = [acceptable_answers(target) for target in targets]
    said = [
        None if isinstance(text, RfprmError) else final_answer(parse_trace(text).response, rules)
        for text in completions
    ]
    asked = [
        (index, answer, target)
        for index, (answer, known) in enumerate(zip(said, acceptable, strict=True))
        for target in known
        if answer is not None
    ]
    found = checker.agree_all(
        [answer for _, answer, _ in asked], [target for *_, target in asked], budget=budget
    )
    if found.num_undecided:
        _logger.warning(
            "%d of %d comparisons of answers were undecided after %g s and count as wrong "
            "(%d since the start)",
            found.num_undecided,
            len(asked),
            budget,
            checker.num_undecided,
        )
    verdicts: list[list[bool | None]] = [[] for _ in completions]
    for (index, *_), verdict in zip(asked, found.agree, strict=True):
        verdicts[index].append(verdict)
    return [
        None if isinstance(text, RfprmError) or not known else _outcome(verdict)
        for text, known, verdict in zip(completions, acceptable, verdicts, strict=True)
    ]


def _outcome(verdicts: list[bool | None]) -> Outcome:
    """Right by one of the acceptable answers, wrong by all of them (or without an answer)."""
    if True in verdicts:
        return 1.0
    return None if None in verdicts else 0.0
