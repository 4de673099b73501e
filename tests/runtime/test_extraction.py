"""What a text says last, and near misses: what it does not say must not be rewarded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.answers import AnswerChecker, AnswerRules
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
    ("So 2^10 = 1024.", "1024"),
    ("so (2+3)^2 = 25", "25"),
    ("It is smallest when x = 3.", "3"),
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
IN_OTHER_WORDS = [
    ("The answer is B because A is wrong.", "B"),
    ("<answer>The answer is 42.</answer>", "42"),
    ("इसलिए, उत्तर है 42।", "42"),
    ("الإجابة هي ٤٢", "42"),
    ("La respuesta final es **42**.", "42"),
    ("Die Antwort lautet 42.", "42"),
    ("Réponse finale : 42 euros", "42"),
    ("答えは42です。", "42"),
    ("The solutions are x = 1 and x = 2.", "1, 2"),
    ("The answer is $x^2+1$, where $x>0$.", "x^2+1"),
    ("The answer is 42 (forty-two).", "42"),
    ("So the answer is 42</s>", "42"),
    ("A. 42", "A"),
    ("(B) is correct.", "B"),
    ("$\\frac{1}{2}$ is the answer.", "0.5"),
    ("<think>so \\boxed{41}</think>It is 42.", "42"),
]


@pytest.fixture(scope="module")
def checker() -> Iterator[AnswerChecker]:
    if find_spec("math_verify") is None:
        pytest.skip("comparing answers needs the extra math")
    with AnswerChecker() as opened:
        yield opened


@pytest.mark.parametrize(("text", "answer"), SAID)
def test_the_last_thing_said_is_the_answer(checker: AnswerChecker, text: str, answer: str) -> None:
    assert checker.agree(final_answer(text), answer) is True, final_answer(text)


@pytest.mark.parametrize(("text", "answer"), IN_OTHER_WORDS)
def test_an_answer_may_be_said_in_other_words(
    checker: AnswerChecker, text: str, answer: str
) -> None:
    assert checker.agree(final_answer(text), answer) is True, final_answer(text)


@pytest.mark.parametrize(
    ("rules", "text", "answer"),
    [
        (AnswerRules(boxes="last"), "\\boxed{1} and \\boxed{2}", "2"),
        (AnswerRules(boxes="list"), "\\boxed{1} and \\boxed{2}", "1, 2"),
        (AnswerRules(format="boxed"), "The answer is 5.", None),
        (AnswerRules(format="boxed"), "\\boxed{4}. The answer is 5.", "4"),
        (AnswerRules(format="marked"), "The answer is 5.", "5"),
        (AnswerRules(format="marked"), "She has 5 apples.", None),
        (AnswerRules(format="any"), "She has 5 apples.", "5"),
    ],
)
def test_conventions_of_place_are_settings(
    rules: AnswerRules, text: str, answer: str | None
) -> None:
    assert final_answer(text, rules) == answer


PIECES = [
    "12", " ", "\n", "$", "\\boxed{", "}", "####", "The answer is ", ".", "x", "=", "<answer>",
    "</answer>", "\\[", "\\]", "**", "!", "(", "or", "。", "\\(", "|", "A:", "{",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_any_text_has_an_answer_or_none(pieces: list[str]) -> None:
    found = final_answer("".join(pieces))
    assert found is None or (found == found.strip() and found)
