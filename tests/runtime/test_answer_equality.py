"""Equality of answers: one verdict however they are spelled, the same either way round, and groups
that do not depend on the order of the voters."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.answers import AnswerRules, answers_agree, group_answers
from rfprm_runtime.answers.references import acceptable_answers
from rfprm_runtime.errors import InvalidArgumentError

SPELLINGS = [
    ["1200", "1,200", r"1\,200", "1{,}200", "1 200", "1.2e3", r"1.2\times 10^{3}", "1200.0"],
    ["7/3", r"2\frac{1}{3}", "2 1/3", "2⅓", r"\dfrac73", r"2.\overline{3}", "2.333333"],
    ["-3/4", r"-\frac{3}{4}", r"\frac{-3}{4}", "−0.75", "-.75"],
    ["50%", r"50\%", "50 percent", "0.5", r"\frac12"],
    ["12.5", "$12.50", r"\$12.5", "12.50 dollars", "12½"],
    ["30", r"30^\circ", "30°", "30 degrees", r"30^{\circ}"],
    ["12 cm^2", r"12\text{ cm}^2", "12 square centimeters", "12 sq cm", "12 cm²"],
    ["60 km/h", r"60\text{ km/h}", "60 kilometers per hour"],
    ["twelve", "12", r"\text{12}", "**12**", "12.", "１２", "十二"],
    ["B", "(B)", "b", r"\text{(B)}", "B.", "Option B", "(B) 12 cm"],
    ["New York", "new york", r"\text{New York}", "New York!"],
    ["1011_2", r"1011_{2}", r"1011_{\text{two}}", "1011 (base 2)"],
    ["(1, 1/2)", r"\left(1, 0.5\right)", r"(1,\frac{1}{2})"],
    ["3, 1, 2", r"\{1,2,3\}", "1, 2 and 3", "x=1, x=2, x=3"],
    ["(1, 2]", r"\left(1,2\right]"],
    ["0.3", "0.30000000000000004"],
    ["0.00001", "1e-05", "10^{-5}"],
]
SAME = [(one, other) for group in SPELLINGS for one in group for other in group]
OTHER = [
    ("12 min", "12 h"), ("0.00000001", "0.00000002"), ("1/1000000000", "2/1000000000"),
    ("5.001", "5"), ("0.3333", "1/3"), ("40%", "4"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2)"),
    ("13_5", "8"), ("13_5", "13_6"), ("dod", "odd"), ("ABC", "BCA"), ("R-r", "r-R"),
    ("x>1 or x<0", "x>1 and x<0"), ("5 m", "5 m^2"), ("$5", "5 cents"), ("5 million", "5"),
    ("A", "B"), ("(A) 1", "(A) 2"), ("1,2", "1,2,3"), ("x=1, y=2", "2, 1"), ("0", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_answer_has_one_verdict_however_it_is_spelled(one: str, other: str) -> None:
    assert answers_agree(one, other) is True


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_other_answers_differ_either_way_round(one: str, other: str) -> None:
    assert not answers_agree(one, other)
    assert not answers_agree(other, one)


ANSWERS = sorted({answer for group in SPELLINGS for answer in group} | {"40", "40%", "0.4", "12 h"})
answer = st.sampled_from(ANSWERS)


@given(answer, answer)
def test_equality_is_symmetric(one: str, other: str) -> None:
    assert answers_agree(one, other) == answers_agree(other, one)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_two_texts_can_be_compared_either_way(one: str, other: str) -> None:
    assert answers_agree(one, other) == answers_agree(other, one)
    assert one == "" or answers_agree(one, one) in (True, None)


@given(st.lists(answer, max_size=10), st.randoms())
def test_a_vote_does_not_depend_on_the_order_of_its_voters(
    answers: list[str], random: object
) -> None:
    shuffled = answers[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    partitions = [
        {frozenset(given[index] for index in group) for group in group_answers(given)}
        for given in (answers, shuffled)
    ]
    assert partitions[0] == partitions[1]


@given(st.lists(answer, max_size=10))
def test_each_answer_is_in_one_group_and_agrees_with_one_of_its_members(answers: list[str]) -> None:
    groups = group_answers(answers)
    assert sorted(index for group in groups for index in group) == list(range(len(answers)))
    for group in groups:
        members = {answers[index] for index in group}
        assert any(all(answers_agree(one, first) for one in members) for first in members)


@pytest.mark.parametrize(
    ("rules", "answer", "target", "agrees"),
    [
        (AnswerRules(percent="share"), "40%", "40", False),
        (AnswerRules(percent="share"), "40%", "0.4", True),
        (AnswerRules(percent="either"), "40%", "40", True),
        (AnswerRules(tolerance=0.01), "33.3", "100/3", True),
        (AnswerRules(tolerance=0.01), "34", "100/3", False),
        (AnswerRules(), "33.3", "100/3", False),
    ],
)
def test_conventions_of_comparing_are_settings(
    rules: AnswerRules, answer: str, target: str, agrees: bool
) -> None:
    assert answers_agree(answer, target, rules=rules) is agrees


@pytest.mark.parametrize(
    ("reference", "answers"),
    [
        ("72", ["72"]),
        ("3 * 24 = 72\n#### 72", ["72"]),
        (r"So it is $\boxed{\frac{1}{2}}$.", [r"\frac{1}{2}"]),
        ("It is 72 of 100, as everybody knows.", ["It is 72 of 100, as everybody knows."]),
        (72, ["72"]),
        (1625.0, ["1625"]),
        (1e-05, ["1e-05"]),
        (0.1 + 0.2, ["0.30000000000000004"]),
        (np.float32(0.5), ["0.5"]),
        (np.int64(7), ["7"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (Fraction(3, 4), ["3/4"]),
        (Decimal("1.50"), ["1.50"]),
        (["12", "twelve", None], ["12", "twelve"]),
        ({"target": ["Paris", "paris"]}, ["Paris", "paris"]),
        ({"value": "Paris", "aliases": ["City of Light"]}, ["Paris", "City of Light"]),
        ({"ground_truth": {"target": 5}}, ["5"]),
        (float("inf"), [r"\infty"]),
        (None, []),
        (float("nan"), []),
        ("  ", []),
        ([], []),
    ],
)
def test_references_are_taken_as_they_stand(reference: object, answers: list[str]) -> None:
    assert acceptable_answers(reference) == answers


@pytest.mark.parametrize("reference", [{"question": "q"}, b"72", object()])
def test_what_holds_no_answer_is_named(reference: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"a right answer is .*expected"):
        acceptable_answers(reference)
