"""Comparing answers takes bounded time, and what cannot be compared is the fault of its writer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rfprm_runtime.answers import AnswerChecker
from rfprm_runtime.answers.killable_worker import BoundedWorker
from rfprm_runtime.answers.reach import is_in_reach
from rfprm_runtime.answers.worker_pool import WorkerPool


class _Algebra:
    """Stands in for the child: a formula of z runs out of time; others are the same if they begin
    alike."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float | None]] = []

    def __call__(
        self, answer: str, target: str, *told: object, seconds: float | None = None
    ) -> bool | None:
        self.asked.append((answer, target, seconds))
        return None if "z" in answer + target else answer[0] == target[0]

    def close(self) -> None:
        pass

    size = 2

    def start(self, count: int) -> None:
        pass


@pytest.fixture
def algebra(checker: AnswerChecker) -> _Algebra:
    found = _Algebra()
    checker._worker = found  # type: ignore[assignment]
    return found


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnswerChecker]:
    monkeypatch.setattr("rfprm_runtime.answers.patience.time.monotonic", lambda: 0.0)
    with AnswerChecker(timeout=5.0) as found:
        yield found


def test_an_answer_that_cannot_be_compared_in_time_is_wrong(
    checker: AnswerChecker, algebra: _Algebra
) -> None:
    assert checker.agree("z+x", "y") is False
    assert checker.agree("x", "x+0") is True


def test_a_target_that_cannot_be_compared_in_time_leaves_it_open(
    checker: AnswerChecker, algebra: _Algebra
) -> None:
    assert checker.agree("x", "z+y") is None
    assert checker.agree("z+x", "z+y") is None


def test_what_ran_out_of_time_is_not_tried_again(checker: AnswerChecker, algebra: _Algebra) -> None:
    for _ in range(3):
        assert checker.agree("z+x", "y") is False
        assert checker.agree("q", "z+y") is None
    assert [call[:2] for call in algebra.asked] == [
        ("z+x", "y"), ("y", "y"), ("q", "z+y"), ("z+y", "z+y"),
    ]  # fmt: skip


def test_many_hostile_answers_cost_little_more_than_a_few(
    checker: AnswerChecker, algebra: _Algebra
) -> None:
    for index in range(40):
        assert checker.agree(f"z+{index}", "y") is False
    given = [seconds for answer, _, seconds in algebra.asked if "z" in answer]
    assert given == [5.0, 5.0, *[0.25] * 38]
    assert checker.agree("a", "a+0") is True  # an honest one is still compared
    # The target is never short of time, or answers could make it unreadable.
    assert [seconds for answer, _, seconds in algebra.asked if answer == "y"] == [None]


def test_patience_grows_again(
    checker: AnswerChecker, algebra: _Algebra, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        checker.agree(f"z+{index}", "y")
    monkeypatch.setattr("rfprm_runtime.answers.patience.time.monotonic", lambda: 60.0)
    checker.agree("a+1", "b+1")
    assert algebra.asked[-1][2] == pytest.approx(3.0)


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        "9**9**9",
        "(9)^{9999999}",
        "2 ^ 2 ^ 2 ^ 2 ^ 2 ^ 2",
        "x + 10^{-10^{10}}",
        "1000000!",
        "(" * 30 + "x" + ")" * 30,
        "\\frac{" * 30 + "1" + "}{2}" * 30,
        "x+" * 2_000 + "1",
        "9^{" + "9" * 400 + "}",
    ],
)
def test_what_is_out_of_reach_is_never_computed(
    checker: AnswerChecker, algebra: _Algebra, answer: str
) -> None:
    assert checker.agree(answer, "x") is False
    assert checker.agree("x", answer) is None
    assert checker.agree(answer, answer) is True  # by its spelling
    assert algebra.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        "2^{2023}",
        "10^{2}3^{500000}",
        "2^{2^{2^{2}}}",
        "x^{2^{n}}",
        "e^{x^2}",
        "1000!",
        r"\frac{1}{1+\frac{1}{1+\frac{1}{2}}}",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        "(0,1) \\cup (1,2]",
        "2^{1000000}",
        "",
    ],
)
def test_what_people_answer_is_in_reach(answer: str) -> None:
    assert is_in_reach(answer)


def test_the_start_of_the_child_process_costs_no_call_its_time() -> None:
    worker = BoundedWorker(
        "bounded_helper:is_prepared", timeout=0.3, warm_up="bounded_helper:prepare"
    )
    assert worker() is True
    worker.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork the child starts again")
@pytest.mark.parametrize("end", ["time:sleep", "bounded_helper:spin", "bounded_helper:die"])
def test_after_a_kill_the_next_call_is_warm(end: str) -> None:
    worker = BoundedWorker(end, timeout=0.2)
    arguments: list[Any] = [600] if end == "time:sleep" else []
    assert worker(*arguments) is None
    process = worker._process
    assert worker(*arguments) is None
    assert worker._process is process
    assert process is not None
    assert process.poll() is None
    assert worker.num_timeouts == 2
    worker.close()
    assert process.poll() is not None


def test_a_short_time_is_enough_for_the_first_comparison() -> None:
    with AnswerChecker(timeout=0.5) as checker:
        assert checker.agree("x+1", "1+x") is True
        assert checker.agree("((((((((((((x+1))))))))))))", "1+x") in (True, False)  # never None
        assert checker.agree("x+2", "2+x") is True


def test_a_batch_compares_each_pair(checker: AnswerChecker, algebra: _Algebra) -> None:
    found = checker.agree_all(
        ["12", "a+1", None, "b+1", "9^{9^{9}}", "x"], ["12.0", "a+2", "5", "c+1", "x", "9^{9^{9}}"]
    )
    assert found.agree == [True, True, None, False, False, None]
    assert found.num_undecided == 0
    with pytest.raises(ValueError, match="targets"):
        checker.agree_all(["1"], [])
    with pytest.raises(ValueError, match="budget"):
        checker.agree_all(["1"], ["1"], budget=0)


def test_undecided_comparisons_are_wrong_and_counted(
    checker: AnswerChecker, algebra: _Algebra
) -> None:
    found = checker.agree_all(["z+1", "a+1", "z+1", "z+2"], ["y+1", "a+2", "y+1", "y+1"])
    assert found.agree == [False, True, False, False]
    assert found.num_undecided == checker.num_undecided == 3
    asked = [(answer, seconds) for answer, _, seconds in algebra.asked]
    # Nobody gets more before everybody had a quarter of a second.
    first, later = asked[:3], asked[3:]
    assert sorted(first) == [("a+1", 0.25), ("z+1", 0.25), ("z+2", 0.25)]
    assert {seconds for _, seconds in later} == {1.0, 5.0}
    checker.agree_all(["z+1"], ["y+1"])
    assert len(algebra.asked) == len(asked)  # what had its whole time is not tried again


def test_light_comparisons_come_first(checker: AnswerChecker, algebra: _Algebra) -> None:
    algebra.size = 1
    checker.agree_all([r"\int_0^1 a", "b+c+d", "b+c"], ["a", "b", "b"])
    assert [answer for answer, *_ in algebra.asked] == ["b+c", "b+c+d", r"\int_0^1 a"]


def test_after_the_budget_nothing_is_compared(
    checker: AnswerChecker, algebra: _Algebra, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1_000, 4))
    monkeypatch.setattr("rfprm_runtime.answers.checker.time.monotonic", lambda: float(next(clock)))
    algebra.size = 1
    found = checker.agree_all(["a+1", "b+1", "c+1"], ["a+2", "b+2", "c+2"], budget=6.0)
    assert found == ([True, False, False], 2)
    assert algebra.asked == [("a+1", "a+2", 0.25)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without fork the child starts again")
def test_a_hanging_call_keeps_nobody_else() -> None:
    pool = WorkerPool("bounded_helper:slowly", timeout=60, size=2)
    pool.start(2)
    hangs = threading.Thread(target=pool, args=("late", 60), kwargs={"seconds": 1.0})
    hangs.start()
    assert [pool(text) for text in "abc"] == ["a", "b", "c"]
    assert hangs.is_alive()
    pool.close()
    hangs.join()
