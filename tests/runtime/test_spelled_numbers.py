"""One grammar of numbers, for answers, equations and constructed errors alike."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.spelled_numbers import NUMBER, SIGNED_NUMBER, to_fraction
from rfprm_training.arithmetic import evaluate
from rfprm_training.labelling.verifier.equations import find_equations


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7 and 007", ["7", "007"]),
        ("the total is 12.", ["12"]),
        ("3, 4, and 5", ["3", "4", "5"]),
        ("$1,200.50 or 1,234,567", ["1,200.50", "1,234,567"]),
        ("half is .5, not 0.50", [".5", "0.50"]),
        ("1,20 is no group", ["1", "20"]),
        ("12,3456", ["12", "3456"]),
        ("1234,567", ["1234", "567"]),
        ("version 1.2.3", ["1.2", ".3"]),
        ("3..4", ["3", ".4"]),
        ("x2y", ["2"]),
        ("no number, no point.", []),
    ],
)
def test_a_number_ends_where_its_digits_end(text: str, found: list[str]) -> None:
    assert NUMBER.findall(text) == found


def test_a_sign_is_part_of_a_number_only_on_request() -> None:
    assert SIGNED_NUMBER.findall("from -3 to 1,000 and -.5") == ["-3", "1,000", "-.5"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,200", Fraction(1200)),
        ("$3.50", Fraction(7, 2)),
        ("40%", Fraction(40)),
        ("12.", Fraction(12)),
        (".5", Fraction(1, 2)),
        ("-2", Fraction(-2)),
        ("3/4", Fraction(3, 4)),
        ("1/0", None),
        ("", None),
        ("twelve", None),
    ],
)
def test_the_value_of_a_spelled_number(text: str, value: Fraction | None) -> None:
    assert to_fraction(text) == value


def test_answers_equations_and_arithmetic_read_the_same_numbers() -> None:
    text = "So 1,200.50 + .5 = 1,201."
    (equation,) = find_equations(text)
    assert equation.holds is True
    assert evaluate(equation.left) == to_fraction(equation.right) == 1201
    assert final_answer(text) == NUMBER.findall(text)[-1] == "1,201"
