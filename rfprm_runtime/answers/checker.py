"""Compares answers by computer algebra, within bounded time whatever they say."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections import OrderedDict
from typing import Generic, TypeVar

from rfprm_runtime.answers.algebra import same_formula
from rfprm_runtime.answers.compare import answers_agree, compare, read
from rfprm_runtime.answers.killable_worker import BoundedWorker
from rfprm_runtime.answers.reach import is_in_reach
from rfprm_runtime.errors import MissingExtraError

_REMEMBERED = 4_096
_LEAST_SECONDS = 0.25
"""What a comparison gets when others have used up the time; most take a hundredth of it."""
_SHARE_FOR_THE_LATE = 0.05

Key = TypeVar("Key")
Value = TypeVar("Value")


class AnswerChecker:
    """Compares answers: plain numbers exactly, everything else by math-verify in a child process,
    within bounded time. Any thread may use it.

    The time counts the comparison alone, not the start of the child process. An answer must be
    readable: if it cannot be compared in time although its target can be, it is wrong. Otherwise
    nonsense such as ``9^{9^{9^9}}`` would turn a wrong answer into an unknown one, which costs a
    policy nothing. If the target itself cannot be compared in time, the result is unknown.

    Answers that run out of time also use up a common allowance of twice ``timeout``, which grows
    again by 5 % of the time that passes. Once it is used up, a comparison gets a quarter of a
    second (or ``timeout``, if that is less), until the allowance has grown. So many hostile answers
    cost little more than a few.

    Raises :class:`MissingExtraError` if math-verify is not installed.
    """

    def __init__(self, *, timeout: float = 5.0) -> None:
        """``timeout`` of one comparison, in seconds of CPU time; on a busy machine it may take
        twice as long by the clock."""
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("math-verify", "math", "comparing answers")
        self._worker = BoundedWorker(
            f"{__name__}:verify_math", timeout, warm_up=f"{__name__}:warm_up"
        )
        self._patience = _Patience(timeout)
        self._late: _Recent[tuple[str, str], bool | None] = _Recent()
        self._readable: _Recent[str, bool] = _Recent()

    def agree(self, answer: str | None, target: str | None) -> bool | None:
        """Whether both mean the same; None if one is missing or the target cannot be read."""
        return answers_agree(answer, target, verify=self._verify)

    def close(self) -> None:
        """End the child process. Safe to call twice."""
        self._worker.close()

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _verify(self, answer: str, target: str) -> bool | None:
        if not is_in_reach(target):
            return None
        if not is_in_reach(answer):
            return False
        known, verdict = self._late.get((answer, target))
        if known:
            return verdict
        seconds = self._patience.seconds()
        found: bool | None = self._worker(answer, target, seconds=seconds)
        if found is None:
            self._patience.spend(seconds)
            found = False if self._is_readable(target) else None
            self._late.put((answer, target), found)
        return found

    def _is_readable(self, target: str) -> bool:
        """Whether a target can be compared with itself. It gets the whole time, whatever answers
        used up."""
        known, readable = self._readable.get(target)
        if known:
            return bool(readable)
        readable = self._worker(target, target) is not None
        self._readable.put(target, readable)
        return readable


class _Patience:
    """How long the next comparison may take, given how much time late ones have cost."""

    def __init__(self, timeout: float) -> None:
        self._timeout, self._most = timeout, 2 * timeout
        self._left, self._at = self._most, time.monotonic()
        self._lock = threading.Lock()

    def seconds(self) -> float:
        with self._lock:
            now = time.monotonic()
            grown = self._left + (now - self._at) * _SHARE_FOR_THE_LATE
            self._left, self._at = min(self._most, grown), now
            return min(self._timeout, max(self._left, _LEAST_SECONDS))

    def spend(self, seconds: float) -> None:
        with self._lock:
            self._left = max(0.0, self._left - seconds)


class _Recent(Generic[Key, Value]):
    """The last few thousand values that were put in. Any thread may use it."""

    def __init__(self) -> None:
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> tuple[bool, Value | None]:
        """Whether there is a value, and the value."""
        with self._lock:
            return key in self._values, self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._values[key] = value
            if len(self._values) > _REMEMBERED:
                self._values.popitem(last=False)


_FIRST_COMPARISONS = (
    (r"\frac{x+1}{2}", "(1+x)/2"),
    ("x^2", "x*x"),
    ("x^3+2x", "x(x^2+2)"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\left(1, \frac{\pi}{2}\right)", r"(1, \pi/2)"),
    (r"\{1, 2\}", "2, 1"),
    (r"x = 3, y \le 4", "x=3"),
    (r"50\%", r"\text{half}"),
)


def warm_up() -> None:
    """Make the child process import and prepare what most comparisons need."""
    for answer, target in _FIRST_COMPARISONS:
        verify_math(answer, target)


def verify_math(answer: str, target: str) -> bool:
    """Whether two answers mean the same, in the child process, without time limits: those are
    outside."""
    return bool(compare(read(answer), read(target), same_formula))
