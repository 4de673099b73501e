from pathlib import Path

import pytest

from rfprm_training import TrainingError
from rfprm_training.gsm8k import (
    read_gold_solutions,
    read_model_solutions,
    read_rows,
    split_solution,
)


def test_calculator_notes_and_answer_line_are_parsed() -> None:
    steps, answer = split_solution("He has 2*3 = <<2*3=6>>6 cats.\n\nThat is all.\n#### 6")
    assert steps == ["He has 2*3 = <<2*3=6>>6 cats.", "That is all."]
    assert answer == "6"


def test_a_solution_may_end_without_an_answer() -> None:
    assert split_solution("He has 6 cats.") == (["He has 6 cats."], None)


def test_model_solutions_keep_outcome_model_and_question(tiny_data: Path) -> None:
    trajectories = read_model_solutions(tiny_data / "solutions.jsonl")
    assert [t.source for t in trajectories[:2]] == ["small", "large"]
    assert [t.outcome for t in trajectories[:2]] == [False, True]
    assert trajectories[2].metadata["question_index"] == 1
    assert trajectories[1].steps == ("There are 2 * 4 = 8 pens.",)
    assert trajectories[1].response == ("The answer is 8.",)


def test_gold_solutions_keep_their_notes(tiny_data: Path) -> None:
    solutions = read_gold_solutions(tiny_data / "gold.jsonl")
    assert len(solutions) == 12
    assert "<<3*12=36>>" in solutions[0].steps[0]
    assert solutions[0].answer == "29"


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"rows\.jsonl, line 2 is not JSON"):
        list(read_rows(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no data file"):
        list(read_rows(tmp_path / "absent.jsonl"))
