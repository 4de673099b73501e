import random
import re
from fractions import Fraction
from pathlib import Path

import pytest

from rfprm_runtime.answers.spelled_numbers import to_fraction
from rfprm_training import TrainingError
from rfprm_training.arithmetic import evaluate, evaluate_from_left_to_right, format_number
from rfprm_training.construction.corruption import (
    CORRUPTIONS,
    corrupt,
    skipped_step,
    wrong_operator,
)
from rfprm_training.construction.propagation import CorruptedSolution
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, strip_notes

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k_train.jsonl"
EVEN = dict.fromkeys(CORRUPTIONS, 1.0)
SOLUTION = GoldSolution(
    question="Ana packs 6 bags of 14 apples, sells 20 apples, and shares the rest among 4 people. "
    "How many apples does each get?",
    steps=(
        "Ana packs 6 * 14 = <<6*14=84>>84 apples.",
        "After selling 20 she has 84 - 20 = <<84-20=64>>64 left.",
        "Each person gets 64 / 4 = <<64/4=16>>16 apples.",
    ),
    answer="16",
)
MIXED = GoldSolution(
    question="A club of 23 rents 4 halls for 2 hours at $60 an hour. What does each member pay?",
    steps=(
        "The rent is 4 * (2 * 60) + 23 - 23 = <<4*(2*60)+23-23=480>>480.",
        "In cents that is 480 * 100 = <<480*100=48000>>48000.",
        "With 60 minutes it is 48000 / 60 = <<48000/60=800>>800.",
    ),
    answer="800",
)
"""A solution with brackets and a conversion, for the kinds of error that need them."""
PRODUCT = GoldSolution("?", ("It is 4 * (2 + 60) = <<4*(2+60)=248>>248.",), "248")
_FITTING = {"wrong_order": PRODUCT, "unit_slip": MIXED}
_EQUATION = re.compile(r"([\d.]+(?: [-+*/] [\d.]+)+) = \$?([\d.]+)")


def _false_equations(solution: CorruptedSolution) -> list[int]:
    """Steps with a false equation."""
    return [
        index
        for index, step in enumerate(solution.steps)
        for left, right in _EQUATION.findall(step)
        if evaluate(left) != to_fraction(right)
    ]


def _some(kind: str, place: int) -> CorruptedSolution:
    """A corruption; many draws give none, because they would leave a fraction."""
    tries = (CORRUPTIONS[kind](SOLUTION, place, random.Random(seed)) for seed in range(50))
    return next(wrong for wrong in tries if wrong is not None)


def test_wrong_result_breaks_one_equation_and_carries_its_number_on() -> None:
    wrong = _some("wrong_result", 0)
    assert _false_equations(wrong) == [0]
    result = wrong.steps[0].split(" = ")[1].split()[0]
    assert wrong.steps[1].startswith(f"After selling 20 she has {result} - 20")
    assert wrong.steps[2].split(" = ")[1].split()[0] == wrong.answer != "16"


def test_wrong_operand_keeps_arithmetic_true() -> None:
    wrong = _some("wrong_operand", 1)
    assert wrong.first_error == 1
    assert wrong.steps[0] == "Ana packs 6 * 14 = 84 apples."
    assert wrong.steps[1] != strip_notes(SOLUTION.steps[1])
    assert _false_equations(wrong) == []


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_fraction_among_whole_numbers_does_not_give_the_error_away(kind: str) -> None:
    solution = _FITTING.get(kind, SOLUTION)
    found = [
        wrong
        for place in range(len(solution.steps))
        for seed in range(50)
        if (wrong := CORRUPTIONS[kind](solution, place, random.Random(seed))) is not None
    ]
    assert len(found) > 5
    assert not any(
        "." in number for wrong in found for number in re.findall(r"\d[\d.]*\d", str(wrong.steps))
    )


def test_wrong_operator_swaps_the_sign_in_the_prose_too() -> None:
    wrong = wrong_operator(SOLUTION, 1, random.Random(0))
    assert wrong is not None
    assert wrong.steps[1] == "After selling 20 she has 84 + 20 = 104 left."
    assert wrong.steps[2] == "Each person gets 104 / 4 = 26 apples."
    assert wrong.answer == "26"


def test_a_skipped_step_is_wrong_where_its_result_is_needed() -> None:
    tries = [skipped_step(SOLUTION, 1, random.Random(seed)) for seed in range(12)]
    endings = {(wrong.steps[1], wrong.answer) for wrong in tries if wrong is not None}
    assert endings == {
        ("Each person gets 84 / 4 = 21 apples.", "21"),
        ("Each person gets 20 / 4 = 5 apples.", "5"),
    }
    for wrong in filter(None, tries):
        assert wrong.steps[0] == "Ana packs 6 * 14 = 84 apples."
        assert (len(wrong.steps), wrong.first_error) == (2, 1)


def test_an_error_that_cannot_be_carried_through_is_refused() -> None:
    # Without the first step only 6 or 14 apples would be left, too few to sell 20.
    assert all(skipped_step(SOLUTION, 0, random.Random(seed)) is None for seed in range(8))


def test_an_error_that_leaves_the_answer_right_is_refused() -> None:
    square = GoldSolution("2 by 2?", ("It has 2 * 2 = <<2*2=4>>4 squares.",), "4")
    assert wrong_operator(square, 0, random.Random(0)) is not None  # 2 / 2
    sums = GoldSolution("2 and 2?", ("It has 2 + 0 = <<2+0=2>>2 squares.",), "2")
    assert wrong_operator(sums, 0, random.Random(0)) is None  # 2 - 0


def test_the_last_step_cannot_be_skipped() -> None:
    assert skipped_step(SOLUTION, 2, random.Random(0)) is None


def test_corruption_is_the_same_for_the_same_seed() -> None:
    assert corrupt(SOLUTION, random.Random(5), EVEN) == corrupt(SOLUTION, random.Random(5), EVEN)


def test_a_kind_with_weight_zero_is_never_drawn() -> None:
    weights = {**EVEN, "wrong_result": 0.0}
    kinds = {
        found.kind
        for seed in range(40)
        if (found := corrupt(SOLUTION, random.Random(seed), weights)) is not None
    }
    assert "wrong_result" not in kinds
    assert len(kinds) > 3


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(TrainingError, match="unknown kinds of error"):
        corrupt(SOLUTION, random.Random(0), {"typo": 1.0})


def test_a_solution_without_computations_cannot_be_corrupted() -> None:
    plain = GoldSolution("Why?", ("Because it is so.",), "1")
    assert corrupt(plain, random.Random(0), EVEN) is None


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data/gsm8k_train.jsonl is absent")
def test_real_solutions_are_right_before_the_first_error_and_wrong_from_it(kind: str) -> None:
    rng = random.Random(kind)
    solutions = rng.sample(read_gold_solutions(SHARED), 400)
    found = 0
    for solution in solutions:
        for place in range(len(solution.steps)):
            wrong = CORRUPTIONS[kind](solution, place, rng)
            if wrong is None:
                continue
            found += 1
            gold = [strip_notes(step) for step in solution.steps]
            skipped = [step for i, step in enumerate(gold) if i != place]
            right = skipped if kind == "skipped_step" else gold
            assert list(wrong.steps[: wrong.first_error]) == right[: wrong.first_error]
            assert wrong.steps[wrong.first_error] != right[wrong.first_error]
            assert to_fraction(wrong.answer) != to_fraction(solution.answer)
            assert wrong.answer in wrong.steps[-1]
            assert "<<" not in " ".join(wrong.steps)
    assert found > (0 if kind == "wrong_order" else 100)  # few solutions mix operations


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2*3+4", 10),
        ("(2+3)*4", 20),
        ("1,200/4", 300),
        (".5*10", 5),
        ("1/3", Fraction(1, 3)),
        ("-2+5", 3),
    ],
)
def test_expressions_are_evaluated_exactly(expression: str, value: int | Fraction) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize("expression", ["", "1/0", "x+1", "2**3", "__import__('os')", "1+", "f(2)"])
def test_only_plain_arithmetic_has_a_value(expression: str) -> None:
    assert evaluate(expression) is None


def test_numbers_are_written_as_solutions_write_them() -> None:
    assert format_number(Fraction(12)) == "12"
    assert format_number(Fraction(5, 2)) == "2.5"
    assert format_number(Fraction(1, 3)) == "0.33"


def _all(kind: str, solution: GoldSolution, place: int) -> set[str]:
    tries = (CORRUPTIONS[kind](solution, place, random.Random(seed)) for seed in range(60))
    return {wrong.steps[wrong.first_error] for wrong in tries if wrong is not None}


def test_a_misread_quantity_comes_from_the_question() -> None:
    found = _all("misread_quantity", SOLUTION, 0)
    assert found == {"Ana packs 6 * 24 = 144 apples."}  # others would leave a fraction
    swapped = GoldSolution("12 and 5?", ("It is 12 + 5 = <<12+5=17>>17.",), "17")
    assert "It is 21 + 5 = 26." in _all("misread_quantity", swapped, 0)


def test_a_contradiction_changes_only_an_earlier_result() -> None:
    found = _all("contradiction", SOLUTION, 1)
    assert found
    assert all(step.endswith("left.") and "84 - 20" not in step for step in found)
    assert all(" - 20 = " in step for step in found)


def test_the_wrong_order_ignores_brackets() -> None:
    assert _all("wrong_order", PRODUCT, 0) == {"It is 4 * (2 + 60) = 68."}


def test_a_unit_slip_takes_another_constant() -> None:
    found = _all("unit_slip", MIXED, 1)
    assert "In cents that is 480 * 1000 = 480000." in found
    assert not _all("unit_slip", SOLUTION, 0)  # its numbers are the question's


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 + 3 * 4", 20), ("8 / 4 / 2", 1), ("7", 7), ("1 / 0", None), ("3 * -2", None), ("", None)],
)
def test_operations_in_the_order_of_writing(expression: str, value: int | None) -> None:
    assert evaluate_from_left_to_right(expression) == value


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(
    "note", ["1 1/2 " * 800, "1/97*" * 900 + "1", "9" * 2400 + "*" + "9" * 2400]
)
def test_notes_with_values_that_cannot_be_written_out(kind: str, note: str) -> None:
    """Python refuses to print integers of more than 4,300 digits."""
    steps = (f"{note} = <<{note}=2>>2", "so <<2+1=3>>3")
    corrupt(GoldSolution(note, steps, "3"), random.Random(0), {kind: 1.0})
