from __future__ import annotations

import gc
import math
import signal
import time
from typing import Any

import pytest

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.killable_worker import BoundedWorker
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_training.labelling.verifier import (
    answers_agree,
    final_answer,
    find_equations,
    grade_steps,
)


def verdicts(text: str) -> list[bool | None]:
    return [equation.holds for equation in find_equations(text)]


@pytest.mark.parametrize(
    "text",
    [
        "48/2 = 24 clips",
        "She has 3 boxes * 12 pencils = 36 pencils.",
        "5 hours/day * 3 days = 15 hours",
        r"\frac{48}{2} = 24",
        r"\( 3 \times 12 = 36 \)",
        "20% of 50 = 10",
        "50 * 20% = 10",
        "1/3 = 0.33",
        "1,000 * 2 = 2,000",
        "6 times 7 equals 42",
        "26(2) = 52",
        "8 x 1 1/2 = 12 rolls",
        "(40 + 2) / 6 = 7",
        "She earns $12/60 = $0.2 per minute",
    ],
)
def test_true_equations_hold_in_any_notation(text: str) -> None:
    assert verdicts(text) == [True]


@pytest.mark.parametrize(
    "text",
    [
        "48/2 = 25",
        "He walked 2 x 3 = 7 miles",
        "(3 + 4 = 8)",
        r"\frac{48}{2} = 26",
        "5 + 3 equals 9",
        "20% of 50 = 12",
        "1/3 = 0.35",
        "130,000*.15 = $195,000",
    ],
)
def test_false_equations_are_found(text: str) -> None:
    assert verdicts(text) == [False]


@pytest.mark.parametrize(
    "text",
    [
        "x + 5 = 10",
        "All ships had S + 2S + 4S = 7S people",
        "8p = 5p + 3000",
        "16 pounds is equal to 16 x 16 = 256 ounces",
        "2 kg = 2 * 1000 = 2000 g",
        "4/7 is equal to $24",
        "10/3 = 3 boxes",
        "Ann had 4 dozen chocolate chip cookies - 2.5 dozen = 1.5 dozen",
        "no numbers here",
        "= = =",
        "=" * 3000,
        "(" * 3000 + "1 = 2",
    ],
)
def test_only_plain_arithmetic_is_called_false(text: str) -> None:
    assert False not in verdicts(text)


def test_a_chain_is_read_link_by_link() -> None:
    assert verdicts("2 + 2 = 2 * 2 = 5") == [True, False]
    assert verdicts("16 - 3 - 4 = 9 eggs a day, so 9 * 2 = $18") == [True, True]


def test_time_grows_linearly_with_the_text() -> None:
    started = time.perf_counter()
    find_equations("1 + 1 = 2, " * 20_000)
    assert time.perf_counter() - started < 5


QUESTION = "Janet has 16 eggs, eats 3, bakes with 4 and sells the rest at $2. How much?"
REFERENCE = ("16 - 3 - 4 = 9 eggs are left.", "She makes 9 * 2 = 18 dollars.")


def grades(*steps: str, outcome: bool | None = False) -> list[float]:
    found = grade_steps(QUESTION, steps, references=[REFERENCE], outcome=outcome)
    return [grade.grade for grade in found]


def test_a_wrong_trace_is_wrong_from_the_first_unsupported_value() -> None:
    assert grades("She has 16 + 3 = 19 eggs.", "19 * 2 = 38 dollars.") == [0.0, 0.0]


def test_steps_before_it_are_right() -> None:
    found = grades("16 - 3 - 4 = 9 eggs.", "9 * 5 = 45 dollars.", "So 45.")
    assert found == [1.0, 0.0, 0.0]


def test_another_way_to_the_answer_is_not_called_wrong() -> None:
    first, second = grades("16 - 3 = 13 are left.", "13 * 2 = 26 dollars.")
    assert math.isnan(first)
    assert second == 0.0


def test_a_wrong_trace_of_right_values_goes_wrong_at_its_end() -> None:
    assert grades("16 - 3 - 4 = 9 eggs.", "So she makes 9 dollars.") == [1.0, 0.0]


def test_a_false_equation_is_wrong_even_in_a_right_trace() -> None:
    assert grades("16 - 3 - 4 = 10 eggs.", "9 * 2 = 18.", outcome=True) == [0.0, 1.0]


def test_without_outcome_or_reference_only_arithmetic_decides() -> None:
    found = grades("16 - 3 - 4 = 10.", "9 * 2 = 18.", outcome=None)
    assert found[0] == 0.0
    assert math.isnan(found[1])
    alone = grade_steps(QUESTION, ["9 * 2 = 18."], outcome=False)
    assert math.isnan(alone[0].grade)


def test_grades_give_reasons() -> None:
    (grade,) = grade_steps("Why?", ["2 + 2 = 5"])
    assert grade.reason == "2 + 2 is not 5"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"First \boxed{1}, then \boxed{2}", "2"),
        ("40 + 2\n#### 42", "42"),
        ("The answer is 42.", "42"),
        ("**Final answer:** $3.50", "$3.50"),
        ("So the answer is (B)", "(B)"),
        ("She has 3 and then 1,200 left", None),
        (r"cut off \boxed{12", None),
    ],
)
def test_the_final_answer_is_the_one_a_text_states(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_a_text_without_a_number_states_no_answer() -> None:
    assert final_answer("I do not know") is None


def test_plain_numbers_are_compared_by_value() -> None:
    assert answers_agree("$1,200.00", "1200") is True
    assert answers_agree("42 apples", "42") is True
    assert answers_agree("42", "43") is False
    assert answers_agree(None, "43") is None
    assert answers_agree("x+1", "1+x") is None  # without a checker for formulas


def test_formulas_are_compared_by_math_verify() -> None:
    with AnswerChecker(timeout=60) as checker:
        assert checker.agree(r"\frac{1}{2}", "0.5") is True
        assert checker.agree("x+1", "1+x") is True
        assert checker.agree(r"\sqrt{2}", "2") is False


def test_a_slow_call_is_ended_and_the_next_one_works() -> None:
    worker = BoundedWorker("time:sleep", timeout=0.3)
    started = time.perf_counter()
    assert worker(600) is None
    assert time.perf_counter() - started < 60
    assert worker.num_timeouts == 1
    worker.close()
    worker = BoundedWorker("operator:add", timeout=60)
    assert worker(1, "a") is None  # it raised
    assert worker(1, 2) == 3
    worker.close()
    worker.close()


def test_an_unreferenced_worker_ends_its_process() -> None:
    worker = BoundedWorker("operator:add", timeout=60)
    assert worker(1, 2) == 3
    process = worker._process
    assert process is not None
    assert process.poll() is None
    del worker
    gc.collect()
    assert process.poll() is not None


def test_after_ctrl_c_no_answer_reaches_another_question() -> None:
    worker = BoundedWorker("bounded_helper:slowly", timeout=60)
    assert worker("warm") == "warm"

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker("a", 1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [worker(text) for text in "bcd"] == ["b", "c", "d"]
    worker.close()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), "5"])
def test_an_invalid_time_limit_is_refused(timeout: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"timeout is .*more than 0 seconds"):
        BoundedWorker("operator:add", timeout=timeout)
