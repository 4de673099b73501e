"""Ranking kept out-of-fold scores as a checkpoint reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import reranking
from experiments.reranking import KnownScores, rank
from rfprm_export.checkpoint import read_checkpoint
from rfprm_runtime import Trajectory, TrajectoryScore
from rfprm_runtime.artifact.manifest import Calibration
from rfprm_training.evaluation.claims import as_calibrated
from rfprm_training.evaluation.cross_validation import SCORES_NAME, write_out_of_fold
from rfprm_training.example import UNKNOWN, Example

SHIPPED = Path(__file__).parents[2] / "models" / "smollm2-135m-gsm8k"


def _score(steps: float, whole: float) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=np.full(2, steps, np.float32), trajectory_score=whole, reward=0.0, num_tokens=9
    )


def _trace(question: str, answer: int, right: bool) -> Trajectory:
    response = (f"The answer is {answer}.",)
    return Trajectory(question=question, steps=("a", "b"), response=response, outcome=right)


def test_scores_are_read_with_the_calibrations_and_alpha_of_a_checkpoint() -> None:
    checkpoint = read_checkpoint(SHIPPED)
    assert checkpoint.step_readout is not None
    assert checkpoint.trajectory_readout is not None
    halved = Calibration(temperature=2.0, bias=1.0, fitted_on="test")
    changed = checkpoint.model_copy(
        update={
            "alpha": 3.0,
            "step_readout": checkpoint.step_readout.model_copy(update={"calibration": halved}),
            "trajectory_readout": checkpoint.trajectory_readout.model_copy(
                update={"calibration": None}
            ),
        }
    )
    found = as_calibrated(_score(0.8, 0.6), changed)
    log_odds = np.log(0.8 / 0.2) / 2 + 1
    assert found.step_scores == pytest.approx([1 / (1 + np.exp(-log_odds))] * 2)
    assert found.trajectory_score == pytest.approx(0.6)
    assert found.reward == pytest.approx(float(found.step_scores.mean()) + 1.8)


def test_the_better_source_is_picked_by_the_other_questions() -> None:
    right = {"weak": [True, False, False, False], "strong": [False, True, True, True]}
    groups = [
        [
            _trace(f"q{number}", 5, of_source[number]).model_copy(update={"source": source})
            for source, of_source in right.items()
        ]
        for number in range(4)
    ]
    # Of three others, "strong" is right in two or all, "weak" in one or none.
    assert reranking.picked_by_source(groups) == [0.0, 1.0, 1.0, 1.0]
    alike = [[t.model_copy(update={"source": None}) for t in group] for group in groups]
    assert reranking.picked_by_source(alike) is None


def test_methods_pick_by_the_scores_they_are_named_for() -> None:
    group = [_trace("q", 5, True), _trace("q", 7, False), _trace("q", 7, False)]
    scores = [_score(0.2, 0.9), _score(0.9, 0.1), _score(0.3, 0.2)]
    scores = [
        score.model_copy(update={"reward": float(score.step_scores.mean()) + whole})
        for score, whole in zip(scores, (0.9, 0.0, 0.2), strict=True)
    ]
    found = rank([group], KnownScores(zip(group, scores, strict=True)))
    assert found["Best-of-4, reward (Eq. 11)"] == [1.0]
    assert found["Best-of-4, trajectory score"] == [1.0]
    assert found["Best-of-4, mean step score"] == [0.0]
    assert found["majority vote"] == [0.0]
    assert found["weighted vote, trajectory score"] == [1.0]


def test_the_result_says_what_it_stands_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs: list[tuple[Any, TrajectoryScore]] = []
    for index in range(6):
        for right in (True, False):
            trajectory = _trace(f"q{index}", index if right else 100 + index, right)
            steps = (UNKNOWN, UNKNOWN)
            example = Example(trajectory, steps, float(right), f"g{index}", "sampled", True)
            pairs.append((example, _score(0.5, 0.9 if right else 0.2)))
    write_out_of_fold(tmp_path / SCORES_NAME, *map(list, zip(*pairs, strict=True)))
    out = tmp_path / "out"
    options = [str(tmp_path), "--checkpoint", str(SHIPPED), "--output", str(out), "--name", "mine"]
    reranking.main(options)
    found = json.loads((out / "mine.json").read_text())
    assert found["num_questions"] == 6
    assert found["prm"] == "smollm2-135m-gsm8k"
    methods = found["methods"]
    assert methods["Best-of-4, reward (Eq. 11)"]["accuracy"] == [1.0, 1.0, 1.0]
    assert methods["random"]["accuracy"][0] == 0.5
    assert methods["oracle"]["gap_recovered"][0] == 1.0
    over_votes = methods["oracle"]["accuracy"][0] - methods["majority vote"]["accuracy"][0]
    assert methods["oracle"]["over_majority"][0] == pytest.approx(over_votes)
    assert methods["majority vote"]["over_majority"] == [0.0, 0.0, 0.0]
    # The steps are all alike: without the trajectory score every pair is a tie.
    assert found["by_alpha"]["0"]["auc"][0] == 0.5
    assert found["by_alpha"]["1"]["auc"][0] == found["by_alpha"]["inf"]["auc"][0] == 1.0
    assert found["by_alpha"]["7"]["gap_recovered"][0] == 1.0
    assert (out / "mine.png").stat().st_size > 1000
    assert "6 questions" in capsys.readouterr().out


def test_a_scored_file_is_ranked_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "question": f"What is {n} + {n}?",
            "completion": f"<think>\n{n} + {n}\nis {end}\n</think>\nSo \\boxed{{{end}}}",
            "outcome": end == 2 * n,
            "step_scores": [0.5, 0.5],
            "trajectory_score": 0.9 if (end == 2 * n) == (n != 3) else 0.2,
            "reward": 0.0,
        }
        for n in range(6)
        for end in (2 * n, 2 * n + 1)
    ]
    path, out = tmp_path / "scored.jsonl", tmp_path / "out"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reranking.main([str(path), "--output", str(out)])
    found = json.loads((out / "reranking.json").read_text())
    assert found["num_questions"] == 6
    assert "alpha" not in found
    assert found["methods"]["Best-of-4, trajectory score"]["accuracy"][0] == pytest.approx(5 / 6)
    assert found["by_alpha"]["inf"]["auc"][0] == pytest.approx(5 / 6)
    del rows[4]["outcome"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit, match="row 5: it has no outcome"):
        reranking.main([str(path), "--output", str(out)])
    with pytest.raises(SystemExit):
        reranking.main([str(path), "--checkpoint", str(SHIPPED), "--output", str(out)])
    assert "a scored file takes none" in capsys.readouterr().err
