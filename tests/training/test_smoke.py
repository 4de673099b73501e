from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfprm_runtime.answers.spelled_numbers import to_fraction
from rfprm_training import TrainingError
from rfprm_training.arithmetic import evaluate
from rfprm_training.construction.propagation import NOTE
from rfprm_training.construction.word_problems import word_problems
from rfprm_training.smoke import run


def test_word_problems_are_right_and_all_different() -> None:
    problems = word_problems(200, seed=0)
    assert len({problem.question for problem in problems}) == 200
    for problem in problems:
        notes = [note for step in problem.steps for note in NOTE.finditer(step)]
        assert len(notes) == len(problem.steps)
        for note in notes:
            assert evaluate(note.group(1)) == to_fraction(note.group(2))
        assert notes[-1].group(2) == problem.answer
    assert word_problems(5, seed=0) == problems[:5]


@pytest.mark.slow
def test_the_whole_chain_from_traces_to_an_evaluated_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    found = run(folder, num_problems=40)
    report = json.loads((folder / "curated.jsonl.report.json").read_text())
    assert report["num_dropped"] == {"duplicate": 2, "unreadable": 2}
    rows = [json.loads(line) for line in (folder / "labelled.jsonl").read_text().splitlines()]
    assert len(rows) == report["num_kept"]
    assert {row["trajectory_reward"] for row in rows} == {0.0, 1.0}
    assert (folder / "checkpoint" / "README.md").is_file()
    assert (folder / "artifact" / "prm.json").is_file()
    assert found.num_trajectories > 30
    assert found.first_error is not None
    with pytest.raises(TrainingError, match="exists"):
        run(folder)
