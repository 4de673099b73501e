"""What a text says last, and near misses: what it does not say must not be rewarded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.answers import AnswerChecker, answers_agree, group_answers
from rfprm_runtime.answers.extraction import final_answer

SAID = [
    ("The answer is 72, altogether.", "72"),
    ("The answer is 12, as claimed.", "12"),
    ("The answer is 12 (rounded).", "12"),
    ("The answer is 12 since that is 3 * 4.", "12"),
    ("The answer is 12!", "12"),
    ("The answer is approximately 12.", "12"),
    ("The answer is thus 12.", "12"),
    ("The answer is equal to 12.", "12"),
    ("The answer is the number 12.", "12"),
    ("Answer: `12`", "12"),
    ("The answer is \\[12\\]", "12"),
    ("The final answer is:\n\n$$\n12\n$$", "12"),
    ("Now the answer is clear: 3 * 4 = 12.", "12"),
    ("12 because 3 times 4 is 12", "12"),
    ("Final Answer: The volume of $ABCD$ is 120. I hope it is correct.", "120"),
    ("So \\boxed{5}. Wait, I lost a sign. The answer is 6.", "6"),
    ("\\boxed{\\Delta E > 0} so the third choice.\n\n**Answer: C**", "C"),
    ("So \\boxed{1625}. The answer is one thousand and more.", "1625"),
    ("#### Step 1: multiply\n3 * 4 = 12\n\n#### Final answer\n12", "12"),
    ("3 * 4 = 12\n#### 12", "12"),
    ("\\boxed{3}, \\boxed{5}", "3, 5"),
    ("\\boxed{-2} \\quad \\text{and} \\quad \\boxed{1}", "-2, 1"),
    ("\\boxed{9} \\boxed{9} \\boxed{42}", "42"),
    ("so \\fbox{\\frac{1}{2}} of it", "1/2"),
    ("So we get $\\boxed 7$ after 3 steps.", "7"),
    ("<answer>\n12\n</answer>", "12"),
    ("She has 12 apples left.", "12"),
    ("So 3 * 4 = 12.", "12"),
    ("Total = 5 + 7 = 12 dollars", "12"),
    ("Il reste 12 pommes.", "12"),
    ("因此，弗兰克一共有**858颗**糖果。", "858"),
    ("答案是 B", "B"),
    ("Therefore, the cost is $12.50.", "12.5"),
    ("Therefore $x \\geq 5$ is the solution.", "x >= 5"),
    ("So the ordered pair $(x, y)$ is $(7, 6)$.", "(7, 6)"),
    ("\\frac{4}{23}", "8/46"),
    ("3+2", "5"),
    ("x = 12", "12"),
    ("$2 \\times 6 = 12$", "12"),
    ("\\boxed{E: some words}", "E"),
    ("\\boxed{\\text{(E) 12}}", "E"),
    ("The answer is 1 1/2.", "1.5"),
    ("The answer is 9\\,500.", "9500"),
    ("The answer is 60 km/h.", "60"),
    ("The answer is 40%.", "0.4"),
    ("the value is 1000", "1e3"),
]
NOT_SAID = [
    # a bound, or a part of a formula
    ("so $x > 5$", "5"), ("so x > 5", "5"), ("that is x <= 7", "7"), ("2.5 < x", "2.5"),
    ("5 ≤ n", "5"), ("x ≠ 5", "5"), ("p = 0.05 < 0.1", "0.1"), ("x is at least 5", "5"),
    ("no more than 5", "5"), ("more than 5 apples", "5"), ("at most 5", "5"),
    ("The answer is x > 5", "5"), ("The answer is $x \\ge 2$", "2"), ("The answer is not 12", "12"),
    ("so the fraction is 3/4", "4"), ("so $\\frac{3}{4}$", "4"), ("The answer is 3/4", "4"),
    ("so a/2", "2"), ("1/2 + 1/3", "3"), ("we get 3 * 4", "4"), ("It costs 5 times 3", "3"),
    ("the interval is [2, 5]", "5"), ("the interval is $(2, 5)$", "5"), ("the point (3, 4)", "4"),
    ("x ∈ {1,2,3}", "3"), ("It is 10^3", "3"), ("The final answer is 2^5", "5"), ("a_{5}", "5"),
    ("x_1", "1"), ("152_8", "8"), ("sqrt(2)", "2"), ("$\\sqrt{2}$", "2"), ("\\sqrt{2}", "2"),
    ("log_2 x", "2"), ("f(3) is even", "3"), ("P(3)", "3"), ("3 + 4i", "4"), ("-x + 5", "5"),
    ("10 - 3", "3"), ("±3", "3"), ("$\\pm 3$", "3"), ("y = 2x + 3", "3"), ("Answer: 3x", "3"),
    ("The answer is 5x", "5"), ("n ≡ 3 (mod 5)", "3"), ("mod 7", "7"), ("The ratio is 2:3", "3"),
    # an equation to solve
    ("we get 3x = 12", "12"), ("so x^2 = 9", "9"), ("so $2^x = 8$", "8"), ("|x| = 4", "4"),
    ("So 4 = x + 1", "4"),
    # one of several, or of another thing
    ("The answer is 12 or 13", "12"), ("The answer is 12 or 13", "13"), ("The answer is 1, 2", "2"),
    ("x = 3 or x = 4", "4"), ("$x=3$, $y=4$", "4"), ("we have a = 3, b = 4", "4"),
    ("it is between 3 and 5", "5"), ("so the answer is between 3 and 5", "5"),
    ("roughly 3 to 5 of 7", "7"), ("so 7 divides 21", "21"), ("(A) 3 (B) 4", "4"), ("Step 3", "3"),
    ("See equation (4)", "4"), ("12:30", "30"), ("A1", "1"), ("#### Step 3: multiply", "3"),
    ("I stop here after 3 of 10 steps", "10"), ("so \\boxed{5", "5"),
]  # fmt: skip


@pytest.fixture(scope="module")
def checker() -> Iterator[AnswerChecker]:
    if find_spec("math_verify") is None:
        pytest.skip("comparing answers needs the extra math")
    with AnswerChecker() as opened:
        yield opened


@pytest.mark.parametrize(("text", "answer"), SAID)
def test_the_last_thing_said_is_the_answer(checker: AnswerChecker, text: str, answer: str) -> None:
    assert checker.agree(final_answer(text), answer) is True, final_answer(text)


@pytest.mark.parametrize(("text", "answer"), NOT_SAID)
def test_what_is_not_said_is_not_rewarded(checker: AnswerChecker, text: str, answer: str) -> None:
    assert not checker.agree(final_answer(text), answer), final_answer(text)


PIECES = [
    "12", " ", "\n", "$", "\\boxed{", "}", "####", "The answer is ", ".", "x", "=", "<answer>",
    "</answer>", "\\[", "\\]", "**", "!", "(", "or", "。", "\\(", "|", "A:", "{",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_any_text_has_an_answer_or_none(pieces: list[str]) -> None:
    found = final_answer("".join(pieces))
    assert found is None or (found == found.strip() and found)


ANSWERS = ["40%", "0.4", "40", "2/5", "E", "(E)", "(E) 12", "D", "(D) 12", "12", "12 cm", "x", "X"]


@given(st.lists(st.sampled_from(ANSWERS), max_size=8))
def test_groups_are_those_of_comparing_one_by_one(answers: list[str]) -> None:
    """With and without algebra: it joins the first group whose first member it agrees with."""
    for verify in (None, lambda one, other: {one, other} == {"2/5", "0.4"}):
        expected: list[list[int]] = []
        for index, answer in enumerate(answers):
            joined = (
                group
                for group in expected
                if answers[group[0]] == answer
                or answers_agree(answer, answers[group[0]], verify=verify)
            )
            group = next(joined, None)
            if group is None:
                expected.append(group := [])
            group.append(index)
        assert group_answers(answers, verify=verify) == expected


@pytest.mark.parametrize(("one", "other"), [("E", "(E) 12"), ("40%", "0.4"), ("E: yes", "(E)")])
def test_letters_and_shares_agree_either_way(one: str, other: str) -> None:
    assert answers_agree(one, other) is True
    assert answers_agree(other, one) is True
