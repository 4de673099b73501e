"""The final answer of a text, and whether two answers are the same."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from rfprm_runtime.answers.killable_worker import BoundedWorker
from rfprm_runtime.answers.spelled_numbers import SIGNED_NUMBER, to_fraction
from rfprm_runtime.errors import MissingExtraError

_BOXED = re.compile(r"\\boxed\s*\{")
_STATED = (
    re.compile(r"####\s*(.+)"),
    re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*(?::\s*)?(.+?)(?:\.\s|\.?$)", re.I | re.M),
    re.compile(r"^A:\s*(.+)$", re.M),
)
_PLAIN = re.compile(rf"[$€£]?\s*({SIGNED_NUMBER.pattern})\s*(%|[A-Za-z][A-Za-z ]{{0,30}})?\.?")
_LONGEST_NUMBER = 200
"""In characters; a longer text is never read as one number with its unit."""


def final_answer(text: str) -> str | None:
    r"""The answer that a text states: the last ``\boxed{…}``, ``#### …`` or ``The answer is …``, or
    else its last number. None if it has no number either."""
    boxed = _last_boxed(text)
    if boxed:
        return boxed
    for pattern in _STATED:
        matches = pattern.findall(text)
        if matches and matches[-1].strip():
            return str(matches[-1]).strip().rstrip(".").strip("*$ ") or None
    numbers = SIGNED_NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _last_boxed(text: str) -> str | None:
    openings = list(_BOXED.finditer(text))
    if not openings:
        return None
    start, depth = openings[-1].end(), 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[start:index].strip()
    return None  # cut off in the middle


class AnswerChecker:
    """Compares answers: plain numbers exactly, everything else by math-verify in a child process
    that is killed when it takes too long. Any thread may use it.

    Raises :class:`MissingExtraError` if math-verify is not installed.
    """

    def __init__(self, *, timeout: float = 5.0) -> None:
        """``timeout`` of one comparison, in seconds."""
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("math-verify", "math", "comparing answers")
        self._worker = BoundedWorker("rfprm_runtime.answers.compare:verify_math", timeout)

    def agree(self, answer: str | None, target: str | None) -> bool | None:
        """Whether both mean the same; None if one is missing or the comparison failed."""
        return answers_agree(answer, target, verify=self._worker)

    def close(self) -> None:
        self._worker.close()

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def answers_agree(
    answer: str | None, target: str | None, *, verify: Callable[[str, str], object] | None = None
) -> bool | None:
    """Whether two answers mean the same; None if that cannot be decided.

    Numbers are compared by value and texts by spelling; ``verify(answer, target)`` decides the
    rest.
    """
    if not answer or not target:
        return None
    first, second = _plain_number(answer), _plain_number(target)
    if first is not None and second is not None:
        if first.value != second.value:
            return False
        # 12 minutes are not 12 hours, but they are right if the target is a bare 12.
        if not (first.unit and second.unit) or first.unit == second.unit:
            return True
    if _squeezed(answer) == _squeezed(target):
        return True
    if verify is None:
        return None
    found = verify(answer, target)
    return None if found is None else bool(found)  # numpy's True counts too


def need_algebra(answers: Sequence[str | None]) -> bool:
    """Whether comparing ``answers`` takes more than comparing numbers and spellings."""
    spellings = {answer for answer in answers if answer is not None}
    return len(spellings) > 1 and any(_plain_number(answer) is None for answer in spellings)


def group_answers(
    answers: Sequence[str | None], *, verify: Callable[[str, str], object] | None = None
) -> list[list[int]]:
    """Groups of indices of answers that mean the same, in the order of their first members.

    An answer joins the first group whose first member it agrees with, so the grouping depends on
    the order alone. None is in no group.
    """
    groups: list[list[int]] = []
    by_text: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        group = by_text.get(answer)
        if group is None:
            group = next(
                (g for g in groups if answers_agree(answer, answers[g[0]], verify=verify)), None
            )
            if group is None:
                group = []
                groups.append(group)
            by_text[answer] = group
        group.append(index)
    return groups


class _Number(NamedTuple):
    value: Fraction
    unit: str


def _plain_number(text: str) -> _Number | None:
    match = _PLAIN.fullmatch(text.strip()) if len(text) <= _LONGEST_NUMBER else None
    value = to_fraction(match.group(1)) if match else None
    if match is None or value is None:
        return None
    return _Number(value, (match.group(2) or "").strip().lower().removesuffix("s"))


def _squeezed(text: str) -> str:
    """The text without what never matters: white space beside signs, dollar signs, LaTeX's text
    command, emphasis around the whole, a full stop at the end."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text.replace("$", "")).strip().strip("*")
    text = re.sub(r"\s+", " ", text.rstrip(". "))
    return re.sub(r"(?<!\w) | (?!\w)", "", text).lower()


def verify_math(answer: str, target: str) -> bool:
    """math-verify's verdict, in the child process, without its own time limits: ours is outside."""
    from math_verify import parse, verify

    # It would warn in every call that its own time limit is off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    given, wanted = (
        parse(f"${text}$", parsing_timeout=None, raise_on_error=False) for text in (answer, target)
    )
    return bool(given and wanted and verify(wanted, given, timeout_seconds=None))
