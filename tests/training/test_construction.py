from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from rfprm_training.construction.config import ConstructionConfig
from rfprm_training.construction.corruption import CORRUPTIONS, corrupt
from rfprm_training.construction.flaws import FLAWS
from rfprm_training.construction.question_examples import question_examples
from rfprm_training.construction.wording import WORDINGS, LabelledSteps, reordered, thinking
from rfprm_training.example import Example
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, strip_notes
from rfprm_training.labelling.verifier import find_equations
from rfprm_training.learning.dataset import has_slip

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k_train.jsonl"
OTHER = GoldSolution("How many hens?", ("There are 4 + 5 = <<4+5=9>>9 hens.",), "9")
RICH = ConstructionConfig(
    corruption_weights=dict.fromkeys(CORRUPTIONS, 1.0),
    errors_per_question=3,
    flawed_share=1.0,
    reordered_share=0.5,
    wordings=dict.fromkeys(WORDINGS, 1.0),
    thinking_share=0.4,
)


def examples_of(solution: GoldSolution, seed: int, cut_errors: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return question_examples(
        solution, OTHER, "g", RICH, rng, errors=3, cut_errors=cut_errors, flaws=1.0
    )


def test_every_step_has_a_label_and_every_example_its_group(pencils: GoldSolution) -> None:
    for seed in range(40):
        for example in examples_of(pencils, seed):
            assert len(example.step_labels) == len(example.trajectory.steps)
            assert example.group == "g"
            assert example.trajectory.question == pencils.question


def test_errors_to_one_question_differ(pencils: GoldSolution) -> None:
    wrong = [e for e in examples_of(pencils, 3) if e.kind in CORRUPTIONS]
    assert len({e.trajectory.steps for e in wrong}) == len(wrong) > 1
    assert all(e.trajectory_label == 0.0 and e.trajectory.outcome is False for e in wrong)


def test_right_traces_may_err_on_the_way_but_end_right(pencils: GoldSolution) -> None:
    mended = 0
    for seed in range(200):
        gold = examples_of(pencils, seed)[0]
        assert (gold.kind, gold.trajectory_label) == ("gold", 1.0)
        known = [label for label in gold.step_labels if not math.isnan(label)]
        assert known[-1] == 1.0
        mended += 0.0 in known
    assert 10 < mended < 100  # thinking traces alone correct themselves


def test_construction_is_the_same_for_the_same_seed(pencils: GoldSolution) -> None:
    assert repr(examples_of(pencils, 5)) == repr(examples_of(pencils, 5))


def test_a_solution_without_computations_gives_nothing() -> None:
    assert examples_of(GoldSolution("Why?", ("Because.",), "1"), 0) == []


def test_cut_errors_end_with_their_first_wrong_step(pencils: GoldSolution) -> None:
    num_cut = 0
    for seed in range(40):
        for example in examples_of(pencils, seed, cut_errors=5)[4:]:
            if example.kind not in CORRUPTIONS:
                continue
            num_cut += 1
            assert example.step_labels[-1] == 0.0
            assert 0.0 not in example.step_labels[:-1]
            assert math.isnan(example.trajectory_label)
            assert (example.trajectory.response, example.trajectory.outcome) == ((), None)
    assert num_cut > 40


def test_traces_to_one_question_have_the_same_words_up_to_the_error(pencils: GoldSolution) -> None:
    """The style of a trace must not reveal whether it is right."""
    for seed in range(60):
        rng = random.Random(seed)
        config = RICH.model_copy(update={"reordered_share": 0.0, "thinking_share": 0.0})
        gold, *wrong = question_examples(pencils, OTHER, "g", config, rng, errors=2, cut_errors=4)
        for example in wrong:
            before = example.first_error
            if example.kind != "skipped_step":
                assert example.trajectory.steps[:before] == gold.trajectory.steps[:before]


def test_a_concluding_step_is_as_right_as_the_whole(pencils: GoldSolution) -> None:
    config = ConstructionConfig(concluding_share=1.0, flawed_share=1.0)
    for seed in range(20):
        for e in question_examples(
            pencils, OTHER, "g", config, random.Random(seed), errors=2, flaws=1.0
        ):
            assert "answer is" in e.trajectory.steps[-1]
            assert e.trajectory.response == ()
            assert repr(e.step_labels[-1]) == repr(e.trajectory_label)
            if e.kind == "gold":
                assert "60" in e.trajectory.steps[-1]


def test_a_result_announced_in_prose_changes_with_its_computation() -> None:
    solution = GoldSolution(
        "A book of 12 inches has 80 pages an inch. How many in 6 parts?",
        ("There are 960 pages because 80 x 12 = <<80*12=960>>960.", "960/6=<<960/6=160>>160."),
        "160",
    )
    wrong = corrupt(solution, random.Random(0), {"misread_quantity": 1.0})
    assert wrong is not None
    assert "960" not in " ".join(wrong.steps)


def test_stopping_early_gives_right_steps_and_a_wrong_answer(pencils: GoldSolution) -> None:
    flawed = FLAWS["stopped_early"](pencils, OTHER, random.Random(0))
    assert flawed is not None
    assert flawed.steps == tuple(strip_notes(step) for step in pencils.steps[:-1])
    assert (flawed.answer, flawed.step_labels, flawed.trajectory_label) == ("30", (1.0, 1.0), 0.0)


def test_wrong_words_keep_the_numbers(pencils: GoldSolution) -> None:
    solution = GoldSolution(
        pencils.question, ("Ann has 2 more, 1 + 2 = <<1+2=3>>3.", "3 is the sum."), "3"
    )
    flawed = FLAWS["wrong_words"](solution, OTHER, random.Random(0))
    assert flawed is not None
    assert flawed.steps[0] == "Ann has 2 less, 1 + 2 = 3."
    assert flawed.step_labels[0] == 0.0
    assert math.isnan(flawed.step_labels[1])
    assert math.isnan(flawed.trajectory_label)


def test_only_the_foreign_step_is_wrong(pencils: GoldSolution) -> None:
    flawed = FLAWS["foreign_step"](pencils, OTHER, random.Random(1))
    assert flawed is not None
    place = flawed.step_labels.index(0.0)
    assert flawed.steps[place] == "There are 4 + 5 = 9 hens."
    assert sum(flawed.step_labels) == len(pencils.steps)


def test_a_repeated_step_replaces_the_next_one(pencils: GoldSolution) -> None:
    flawed = FLAWS["repeated_step"](pencils, OTHER, random.Random(1))
    assert flawed is not None
    assert flawed.steps[0] == flawed.steps[1]
    assert flawed.step_labels[:2] == (1.0, 0.0)


def test_the_solution_to_another_question_is_wrong_throughout(pencils: GoldSolution) -> None:
    flawed = FLAWS["other_question"](pencils, OTHER, random.Random(1))
    assert flawed is not None
    assert set(flawed.step_labels) == {0.0}


TRACE = LabelledSteps(("She has 3 x 12 = 36 pens.", "36 / 4 = 9 remain.", "Done."), (1.0, 0.0, 1.0))


@pytest.mark.parametrize("name", WORDINGS)
def test_wording_keeps_steps_and_what_they_compute(name: str) -> None:
    for seed in range(10):
        worded = WORDINGS[name](TRACE, random.Random(seed))
        assert worded.labels == TRACE.labels
        holds = [[e.holds for e in find_equations(step)] for step in worded.steps]
        assert holds == [[True], [True], []]


def test_thinking_moves_labels_with_their_steps() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        worded = thinking(TRACE, rng, corrections=[(1, "WRONG TRY", 0.25)])
        found = dict(zip(worded.steps, worded.labels, strict=True))
        assert [label for step, label in found.items() if "WRONG TRY" in step] == [0.25]
        assert {label for step, label in found.items() if "9 remain" in step} == {0.0}
        after = worded.steps[next(i for i, s in enumerate(worded.steps) if "WRONG" in s) + 1]
        assert after.endswith("36 / 4 = 9 remain.")


def test_only_independent_steps_are_swapped() -> None:
    chained = GoldSolution("?", ("1+1=<<1+1=2>>2", "2+3=<<2+3=5>>5", "5+1=<<5+1=6>>6"), "6")
    free = GoldSolution("?", ("1+1=<<1+1=2>>2", "7+3=<<7+3=10>>10", "2+10=<<2+10=12>>12"), "12")
    assert reordered(chained, random.Random(0)) is None
    moved = reordered(free, random.Random(0))
    assert moved is not None
    assert moved.steps == (free.steps[1], free.steps[0], free.steps[2])


@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data/gsm8k_train.jsonl is absent")
def test_false_arithmetic_in_real_solutions_is_labelled_wrong() -> None:
    drawn = random.Random(0).sample(read_gold_solutions(SHARED), 300)
    solutions = [solution for solution in drawn if not has_slip(solution)]
    false_steps = labelled_right = 0
    for index, solution in enumerate(solutions):
        rng = random.Random(index)
        other = solutions[index - 1]
        for e in question_examples(solution, other, "g", RICH, rng, errors=3, flaws=1.0):
            for step, label in zip(e.trajectory.steps, e.step_labels, strict=True):
                if any(equation.holds is False for equation in find_equations(step)):
                    false_steps += 1
                    labelled_right += label == 1.0
    assert false_steps > 150
    assert labelled_right == 0
