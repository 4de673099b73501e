from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime.types import Trajectory
from rfprm_training import DataError, TrainingError
from rfprm_training.construction.propagation import CorruptedSolution
from rfprm_training.construction.question_examples import corrupted_example, gold_example
from rfprm_training.gsm8k import GoldSolution
from rfprm_training.learning.config import DataConfig
from rfprm_training.learning.dataset import (
    build_examples,
    group_batches,
    sampled_example,
)
from rfprm_training.rewarded import RewardedTrajectory


def data_config(tiny_data: Path, **changes: object) -> DataConfig:
    fields = {"num_constructed": 6, "num_constructed_held_out": 2, **changes}
    files = {"gold": tiny_data / "gold.jsonl", "model_solutions": tiny_data / "solutions.jsonl"}
    return DataConfig(**{**files, "num_folds": 3, **fields})


def test_every_step_of_a_gold_solution_is_right(pencils: GoldSolution) -> None:
    example = gold_example(pencils, "g")
    assert example.step_labels == (1.0, 1.0, 1.0)
    assert (example.trajectory_label, example.first_error) == (1.0, None)
    assert example.trajectory.response == ("The answer is 60.",)
    assert "<<" not in "".join(example.trajectory.steps)


def test_the_first_error_and_what_builds_on_it_are_wrong() -> None:
    wrong = CorruptedSolution("Why?", ("a", "b", "c"), "5", first_error=1, kind="wrong_result")
    example = corrupted_example(wrong, "g")
    assert example.step_labels == (1.0, 0.0, 0.0)
    assert (example.trajectory_label, example.first_error) == (0.0, 1)


def sampled(outcome: bool) -> Trajectory:
    return Trajectory(
        question="Why?",
        steps=("a", "b", "c"),
        outcome=outcome,
        metadata={"question_index": 4},
    )


def test_earlier_steps_of_a_wrong_sampled_solution_are_unknown() -> None:
    example = sampled_example(sampled(outcome=False), "last", [])
    assert [math.isnan(label) for label in example.step_labels] == [True, True, False]
    assert (example.step_labels[2], example.trajectory_label) == (0.0, 0.0)


def test_steps_of_a_right_sampled_solution_are_right() -> None:
    example = sampled_example(sampled(outcome=True), "last", [])
    assert example.step_labels == (1.0, 1.0, 1.0)
    assert example.group == "sampled-4"


def test_steps_of_a_sampled_solution_may_take_its_outcome() -> None:
    assert sampled_example(sampled(outcome=False), "outcome", []).step_labels == (0.0, 0.0, 0.0)
    assert sampled_example(sampled(outcome=True), "outcome", []).step_labels == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("outcome", [True, False])
def test_steps_of_a_sampled_solution_may_be_unknown(outcome: bool) -> None:
    example = sampled_example(sampled(outcome), "none", [])
    assert all(map(math.isnan, example.step_labels))
    assert example.trajectory_label == outcome


def test_held_out_questions_share_no_trajectory_with_the_trained_ones(
    tiny_data: Path,
) -> None:
    examples = build_examples(data_config(tiny_data, held_out_fold=2), seed=0)
    trained = {example.trajectory.question for example in examples if not example.held_out}
    held_out = {example.trajectory.question for example in examples if example.held_out}
    assert trained
    assert held_out
    assert not trained & held_out


def test_the_folds_hold_each_sampled_question_out_once(tiny_data: Path) -> None:
    held_out: list[str] = []
    for fold in range(3):
        examples = build_examples(data_config(tiny_data, held_out_fold=fold), seed=0)
        held_out += {e.group for e in examples if e.held_out and e.kind == "sampled"}
    assert sorted(held_out) == [f"sampled-{index}" for index in range(6)]


def test_no_fold_held_out_trains_on_every_sampled_solution(
    tiny_data: Path,
) -> None:
    examples = build_examples(data_config(tiny_data, held_out_fold=None), seed=0)
    assert {e.held_out for e in examples if e.kind == "sampled"} == {False}
    assert {e.held_out for e in examples if e.kind != "sampled"} == {False, True}


def test_the_examples_do_not_depend_on_the_fold(tiny_data: Path) -> None:
    folds = [build_examples(data_config(tiny_data, held_out_fold=f), seed=0) for f in (0, 2)]
    first, second = ([example.trajectory for example in examples] for examples in folds)
    assert first == second


def test_without_model_solutions_all_examples_are_constructed(tiny_data: Path) -> None:
    examples = build_examples(
        data_config(tiny_data, model_solutions=None, procedures={"sums": 2, "liars": 3}), seed=0
    )
    groups = {example.group.split("-")[0] for example in examples}
    assert groups == {"constructed", "procedure"}
    made_up = [e for e in examples if e.group.startswith("procedure")]
    assert not any(e.held_out for e in made_up)
    assert len({e.group for e in made_up}) == 5
    assert {e.kind for e in made_up} == {"gold", "sums", "liars"}


def rewarded_file(folder: Path, questions: list[str]) -> Path:
    """Two solutions to each question: a right one, and one without any reward."""
    rows = []
    for question in questions:
        right = Trajectory(question=question, steps=("one", "two"), response=("2",))
        known = {"step_rewards": (1.0, None), "trajectory_reward": 1.0}
        rows.append(RewardedTrajectory(trajectory=right, **known))
        rows.append(RewardedTrajectory(trajectory=right, step_rewards=(None, None)))
    path = folder / "rewarded.jsonl"
    path.write_text("".join(row.to_line() for row in rows), encoding="utf-8")
    return path


def test_rewarded_trajectories_are_trained_on_beside_the_rest(
    tiny_data: Path, tmp_path: Path
) -> None:
    before = build_examples(data_config(tiny_data, held_out_fold=1), seed=0)
    held_out = [example.trajectory.question for example in before if example.held_out]
    path = rewarded_file(tmp_path, ["How many are two?", *held_out, "And how many three?"])
    config = data_config(tiny_data, held_out_fold=1, rewarded=(path,))
    examples = build_examples(config, seed=0)
    assert repr(examples[: len(before)]) == repr(before)  # NaN is not equal to itself
    added = examples[len(before) :]
    questions = [example.trajectory.question for example in added]
    assert questions == ["How many are two?", "And how many three?"]
    assert {e.held_out for e in added} == {False}
    assert [e.trajectory_label for e in added] == [1.0, 1.0]
    assert all(e.step_labels[0] == 1 and math.isnan(e.step_labels[1]) for e in added)


def test_a_bad_rewarded_file_is_named(tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "rewarded.jsonl"
    path.write_text('{"question": "Q"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rewarded\.jsonl, line 1 is not a rewarded trajectory"):
        build_examples(data_config(tiny_data, rewarded=(path,)), seed=0)


def test_a_later_run_can_skip_the_questions_of_an_earlier_one(tiny_data: Path) -> None:
    def questions(**changes: Any) -> set[tuple[str, bool]]:
        config = data_config(tiny_data, model_solutions=None, **changes)
        return {(e.trajectory.question, e.held_out) for e in build_examples(config, seed=0)}

    first, both = questions(num_constructed=2), questions(num_constructed=4)
    second = questions(num_constructed=2, skip_constructed=2)
    held_out = {each for each in both if each[1]}
    assert first | second == both
    assert first & second == held_out


def test_another_variant_draws_other_errors_and_holds_out_the_same(tiny_data: Path) -> None:
    def trajectories(variant: int, held_out: bool) -> list[Trajectory]:
        config = data_config(
            tiny_data, model_solutions=None, variant=variant, procedures={"sums": 1}
        )
        return [e.trajectory for e in build_examples(config, seed=0) if e.held_out == held_out]

    assert trajectories(0, held_out=True) == trajectories(1, held_out=True)
    first, second = trajectories(0, held_out=False), trajectories(1, held_out=False)
    assert first != second
    for here, there in ((first, second), (second, first)):
        others = {t.question for t in here} - {t.question for t in there}
        assert all(question.startswith("Start with") for question in others)


def test_another_seed_constructs_other_errors(tiny_data: Path) -> None:
    first, second = (build_examples(data_config(tiny_data), seed) for seed in (0, 1))
    assert [e.trajectory for e in first] != [e.trajectory for e in second]


def test_too_few_gold_solutions_are_an_error(tiny_data: Path) -> None:
    with pytest.raises(TrainingError, match="asks for 998 constructed questions"):
        build_examples(data_config(tiny_data, num_constructed=998), seed=0)


def test_batches_hold_every_row_once_and_split_no_group() -> None:
    rng = random.Random(0)
    groups = [f"g{index % 40}" for index in range(120)]
    lengths = [rng.randrange(10, 90) for _ in groups]
    batches = group_batches(groups, lengths, 600, rng)
    assert sorted(index for batch in batches for index in batch) == list(range(120))
    owners = [{groups[index] for index in batch} for batch in batches]
    assert sum(map(len, owners)) == 40
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= 600 or len({groups[index] for index in batch}) == 1


def test_a_group_beyond_the_limit_still_gets_a_batch() -> None:
    batches = group_batches(["a", "a", "b"], [500, 400, 20], 100, random.Random(0))
    assert sorted(map(sorted, batches)) == [[0, 1], [2]]


def test_epochs_differ() -> None:
    groups = [f"g{index}" for index in range(30)]
    first, second = (group_batches(groups, [20] * 30, 60, random.Random(s)) for s in (0, 1))
    assert first != second
