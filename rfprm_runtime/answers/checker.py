"""Compares answers by computer algebra, within bounded time whatever they say."""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from rfprm_runtime.answers.algebra import same_formula
from rfprm_runtime.answers.compare import answers_agree, compare, read
from rfprm_runtime.answers.patience import Patience
from rfprm_runtime.answers.reach import is_in_reach
from rfprm_runtime.answers.rules import DEFAULT_RULES, AnswerRules
from rfprm_runtime.answers.worker_pool import WorkerPool
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.arguments import check_one_for_each, check_positive
from rfprm_runtime.ground.running import uninterrupted

_REMEMBERED = 4_096
_MOST_PROCESSES = 4
_SLICES = (0.25, 1.0)
"""Seconds that each comparison of a batch gets before any gets more; most take a tenth of the
first, and several times as long in a child that has read nothing of the kind."""
_HEAVY = re.compile(r"\\(?:i*o?int|sum|prod|lim|binom|log|ln)(?![A-Za-z])|!|\^\s?\{?[\d^{]{3}")
"""What takes longest to compute: it comes last, when the others have their verdicts."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Verdicts(NamedTuple):
    """What a batch of comparisons came to."""

    agree: list[bool | None]
    """One for each pair, in order; None if the answer or the target is missing or unreadable."""
    num_undecided: int
    """How many of those that say False were not decided in time."""


class AnswerChecker:
    """Compares answers: numbers, options, words and lists of them at once, formulas by math-verify
    in child processes, within bounded time. Any thread may use it.

    The time counts the comparison alone, not the start of a child process. An answer must be
    readable: if it cannot be compared in time although its target can be, it is wrong. Otherwise
    nonsense such as ``9^{9^{9^9}}`` would turn a wrong answer into an unknown one, which costs a
    policy nothing. If the target itself cannot be compared in time, the result is unknown.

    A comparison that hangs keeps one child process, of up to four, and only for its own time. With
    :meth:`agree`, answers that run out of time also use up a common allowance of twice ``timeout``,
    which grows again by 5 % of the time that passes; once it is used up, a comparison gets a
    quarter of a second. :meth:`agree_all` has one budget for the whole batch.

    Raises :class:`MissingExtraError` if math-verify is not installed.
    """

    def __init__(self, *, timeout: float = 5.0, rules: AnswerRules = DEFAULT_RULES) -> None:
        """``timeout`` of one comparison, in seconds of CPU time; on a busy machine it may take
        twice as long by the clock."""
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtraError("math-verify", "math", "comparing answers")
        self._worker = WorkerPool(
            f"{__name__}:verify_math",
            timeout,
            size=max(2, min(_MOST_PROCESSES, os.cpu_count() or 1)),
            warm_up=f"{__name__}:warm_up",
        )
        self._timeout = timeout
        self.num_undecided = 0
        """How many comparisons :meth:`agree_all` has left undecided since the start."""
        self._rules = rules
        self._patience = Patience(timeout)
        self._late: _Recent[tuple[str, str], bool | None] = _Recent()
        self._readable: _Recent[str, bool] = _Recent()

    def agree(self, answer: str | None, target: str | None) -> bool | None:
        """Whether both mean the same; None if one is missing or the target cannot be read."""
        return answers_agree(answer, target, verify=self._verify, rules=self._rules)

    def agree_all(
        self, answers: Sequence[str | None], targets: Sequence[str | None], *, budget: float = 5.0
    ) -> Verdicts:
        """:meth:`agree` for each pair, within ``budget`` seconds by the clock for all of them.

        Hanging comparisons cannot use up the time of the others: light ones come first, and each
        gets a quarter of a second before any gets more. What is undecided in the end is wrong.

        Raises ``ValueError`` if the numbers of answers and targets differ, or for a budget that is
        not positive.
        """
        check_one_for_each("targets", targets, len(answers), "answers")
        check_positive("budget", budget, "seconds")
        agree: list[bool | None] = [None] * len(answers)
        waiting: dict[tuple[str, str], list[int]] = {}
        for index, (answer, target) in enumerate(zip(answers, targets, strict=True)):
            agree[index] = answers_agree(answer, target, rules=self._rules)
            if agree[index] is None and answer and target and is_in_reach(target):
                agree[index] = False
                if is_in_reach(answer):
                    waiting.setdefault((answer, target), []).append(index)
        verdicts = self._decide(list(waiting), budget) if waiting else {}
        num_undecided = 0
        for pair, indices in waiting.items():
            found = verdicts.get(pair)
            num_undecided += len(indices) * (found is None)
            for index in indices:
                agree[index] = bool(found)
        self.num_undecided += num_undecided
        return Verdicts(agree, num_undecided)

    def close(self) -> None:
        """End the child processes. Safe to call twice."""
        self._worker.close()

    def __enter__(self) -> AnswerChecker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _decide(
        self, pairs: list[tuple[str, str]], budget: float
    ) -> dict[tuple[str, str], bool | None]:
        """The verdict on each pair; None where there was no time."""
        batch = _Batch(self._worker, self._rules, self._timeout, budget)
        known = {pair: False for pair in pairs if self._late.get(pair)[0]}
        found = batch.decide([pair for pair in pairs if pair not in known])
        for pair in batch.hopeless:
            self._late.put(pair, False)
        return {**found, **known}

    def _verify(self, answer: str, target: str) -> bool | None:
        if not is_in_reach(target):
            return None
        if not is_in_reach(answer):
            return False
        known, verdict = self._late.get((answer, target))
        if known:
            return verdict
        seconds = self._patience.seconds()
        found: bool | None = self._worker(answer, target, *self._rules.told(), seconds=seconds)
        if found is None:
            self._patience.spend(seconds)
            found = False if self._is_readable(target) else None
            self._late.put((answer, target), found)
        return found

    def _is_readable(self, target: str) -> bool:
        """Whether a target can be read at all. It gets the whole time, whatever answers used up."""
        known, readable = self._readable.get(target)
        if known:
            return bool(readable)
        readable = self._worker(target, target) is not None
        self._readable.put(target, readable)
        return readable


class _Batch:
    """Comparisons that share one budget."""

    def __init__(
        self, worker: WorkerPool, rules: AnswerRules, timeout: float, budget: float
    ) -> None:
        self._worker = worker
        self._rules = rules
        self._slices = [*(s for s in _SLICES if s < timeout), timeout]
        self._budget = budget
        self._deadline = 0.0
        self._is_given_up = False
        self.hopeless: list[tuple[str, str]] = []
        """Pairs that had the whole time."""

    def decide(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        return uninterrupted(lambda: self._decide(pairs), self._give_up)

    def _give_up(self) -> None:
        self._is_given_up = True

    def _decide(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        self._worker.start(len(pairs))
        self._deadline = time.monotonic() + self._budget
        found: dict[tuple[str, str], bool | None] = {}
        pairs = sorted(pairs, key=_weight)
        with ThreadPoolExecutor(min(self._worker.size, max(1, len(pairs)))) as threads:
            for seconds in self._slices:
                late = [pair for pair in pairs if found.get(pair) is None]
                verdicts = threads.map(partial(self._ask, seconds), late)
                found.update(zip(late, verdicts, strict=True))
        return found

    def _ask(self, seconds: float, pair: tuple[str, str]) -> bool | None:
        left = self._deadline - time.monotonic()
        if left <= 0 or self._is_given_up:
            return None
        found: bool | None = self._worker(*pair, *self._rules.told(), seconds=min(seconds, left))
        if found is None and seconds == self._slices[-1] <= left:
            self.hopeless.append(pair)
        return found


def _weight(pair: tuple[str, str]) -> tuple[bool, int]:
    return any(map(_HEAVY.search, pair)), sum(map(len, pair))


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
    ("x^3+2x", "x(x^2+2)"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\left(1, \frac{\pi}{2}\right)", r"(1, \pi/2)"),
    (r"x \le 4", r"(-\infty, 4]"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&x\end{pmatrix}"),
    (r"y = 2x", r"2x - y = 0"),
    (r"\sin^2 x", r"1 - \cos^2 x"),
    ("(x+200)^2", "x^2+400x+40000"),
    (r"\frac{3\sqrt{5}}{7}", r"-\frac{a^{2}b}{12c}"),
    (r"3x^{2}y - e^{-x}", r"2^{n+1} - 1"),
    (r"\frac{\pi}{3} + 2k\pi", r"\log_2 12 + \ln 5"),
)


def warm_up() -> None:
    """Make the child process import and prepare what most comparisons need."""
    for answer, target in _FIRST_COMPARISONS:
        verify_math(answer, target)


def verify_math(answer: str, target: str, *told: Any) -> bool:
    """Whether two answers mean the same, in the child process, without time limits: those are
    outside. ``told`` are :meth:`AnswerRules.told`. A target given twice is computed in earnest."""
    rules = AnswerRules.of(*told) if told else DEFAULT_RULES
    if answer == target:
        return same_formula(read(answer).text, read(target).text)
    return bool(compare(read(answer), read(target), same_formula, rules))
