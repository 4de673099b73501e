"""A judge is measured as a PRM is, whatever it leaves ungraded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import judges
from llm_server import serving, token
from rfprm_runtime import Trajectory, TrajectoryScore
from rfprm_training.example import Example


def _example(number: int, labels: tuple[float, ...]) -> Example:
    trajectory = Trajectory(
        question=f"q{number}", steps=tuple(f"step {i}" for i in range(len(labels))), response=()
    )
    return Example(trajectory, labels, math.nan, f"q{number}", "test")


def _score(*steps: float) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=np.array(steps, np.float32),
        trajectory_score=None,
        reward=float(np.mean(steps)),
        num_tokens=0,
    )


EXAMPLES = [_example(i, (1.0, 0.0) if i % 2 else (1.0, 1.0)) for i in range(12)]


def test_scores_that_know_every_step_have_an_auc_of_one() -> None:
    found = judges.measure(EXAMPLES, [_score(*e.step_labels) for e in EXAMPLES])
    assert found["step_auc"] == [1.0, 1.0, 1.0]
    assert found["step_auc_at_place"][0] == 1.0
    assert found["step_rank_correlation"][0] == pytest.approx(1.0)
    assert found["first_error_f1"] == 1.0
    assert (found["num_steps"], found["num_wrong"]) == (24, 6)


def test_scores_that_fall_from_step_to_step_know_places_alone() -> None:
    found = judges.measure(EXAMPLES, [_score(0.9, 0.1) for _ in EXAMPLES])
    assert found["step_auc"][0] > 0.75
    assert found["step_auc_at_place"][0] == 0.5


def test_a_trace_without_scores_is_left_out_of_steps_and_accepted() -> None:
    known = [_score(*e.step_labels) for e in EXAMPLES]
    found = judges.measure(EXAMPLES, [None, None, *known[2:]])
    assert (found["num_without_scores"], found["num_steps"], found["num_wrong"]) == (2, 20, 5)
    # Of six wrong traces one is accepted, and all right ones are.
    assert found["first_error_f1"] == pytest.approx(2 * (5 / 6) / (5 / 6 + 1))


def test_figures_that_few_traces_have_still_get_an_interval() -> None:
    """Most draws of questions miss the only wrong trace, and have no figure of wrong traces."""
    rare = [_example(0, (1.0, 0.0, 1.0)), _example(1, (0.0, 1.0, 1.0)), *EXAMPLES[::2]]
    found = judges.measure(rare, [_score(*e.step_labels) for e in rare])
    assert found["step_auc_in_wrong"] == [1.0, 1.0, 1.0]
    right = EXAMPLES[::2]
    found = judges.measure(right, [_score(*e.step_labels) for e in right])
    assert found["step_auc"] is None
    assert found["step_auc_in_wrong"] is None


def test_prompts_are_compared_behind_one_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"problem": f"q{i}", "steps": ["a", "b"], "label": 1 if i % 2 else -1} for i in range(8)
    ]
    traces = tmp_path / "traces.jsonl"
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = tmp_path / "own.md"
    own.write_text("---\nversion: 1\n---\n# system\nOWN\n\n# user\n{question} {steps} {step}\n")

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        # By the prompt of the test alone this judge finds the wrong steps: the second of odd rows.
        system, user = (message["content"] for message in request["messages"])
        odd = any(f"q{i}" in user for i in (1, 3, 5, 7))
        grade = "1" if system == "OWN" and odd and "[2]" in user else "5"
        return token(**{grade: 1.0})

    with serving(reply) as server:
        config = tmp_path / "judge.toml"
        config.write_text(
            f'base_url = "{server.url}"\nmodel = "m"\ngrading = "expected"\n'
            f'cache = "{tmp_path / "cache.sqlite"}"\n'
        )
        spec = f"processbench:{traces}"
        judges.main(
            [str(config), "--on", spec, "--prompts", str(own), "--output", str(tmp_path / "out")]
        )
    found = json.loads((tmp_path / "out" / "judges.json").read_text())["sets"][spec]
    assert found["judge"]["step_auc"][0] == 0.5
    assert found["judge"]["step_rank_correlation"] is None
    assert found["judge, own"]["step_auc"][0] == 1.0
    assert found["judge, own"]["first_error_f1"] == 1.0
    assert found["judge"]["usage"]["answers"] == 16
    assert "judge, own" in capsys.readouterr().out
