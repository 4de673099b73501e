from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rfprm_export.checkpoint import load_prm
from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.commands import calibrate
from rfprm_training.evaluation.calibrate import fit_calibration, refuse_calibrated
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.example import Example
from rfprm_training.learning.trainer import Trainer


def boastful(count: int) -> tuple[list[Example], list[TrajectoryScore]]:
    """Scores whose log-odds are three times what they should be."""
    rng = np.random.default_rng(0)
    examples, scores = [], []
    for index in range(count):
        odds = rng.normal(0, 1, 3)
        labels = tuple((rng.random(3) < 1 / (1 + np.exp(-odds))).astype(float).tolist())
        claimed = 1 / (1 + np.exp(-3 * odds))
        trajectory = Trajectory(question=f"q{index}", steps=("a", "b", "c"))
        examples.append(Example(trajectory, labels, labels[2], f"q{index}", "test"))
        scores.append(
            TrajectoryScore(
                step_scores=claimed.astype(np.float32),
                trajectory_score=float(claimed[2]),
                reward=1.0,
                num_tokens=1,
            )
        )
    return examples, scores


@pytest.mark.parametrize("kind", ["step", "trajectory"])
def test_overconfident_scores_get_a_higher_temperature(kind: Any) -> None:
    examples, scores = boastful(2000)
    found = fit_calibration(kind, examples, scores, fitted_on="test")
    assert found is not None
    assert found.fitted.temperature == pytest.approx(3, rel=0.25)
    assert found.helps
    assert found.ece_after < 0.05 < found.ece_before
    assert "ECE" in found.fitted.fitted_on


def test_too_few_labels_are_not_fitted() -> None:
    examples, scores = boastful(20)
    assert fit_calibration("step", examples, scores, fitted_on="test") is None


def test_the_command_writes_helpful_calibrations_to_the_checkpoint(
    write_config: Any, tmp_path: Path
) -> None:
    config = write_config(("num_epochs = 2", "num_epochs = 20"))
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    folder = trainer.run()
    rows = []
    for index, example in enumerate(trainer.examples * 8):
        labels = [1.0 if x != x else x for x in example.step_labels]
        # Different questions, so that every fold has some; the order of scores is kept.
        rows.append(
            {
                "question": f"{example.trajectory.question} ({index})",
                "steps": example.trajectory.steps,
                "response": example.trajectory.response,
                "step_rewards": labels,
                "trajectory_reward": example.trajectory_label,
            }
        )
    path = tmp_path / "rewarded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = typer.Typer()
    app.command()(calibrate)
    arguments = [str(folder), "--on", f"rewarded:{path}"]
    before = load_prm(folder).manifest
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "scores: temperature" in result.output
    after = load_prm(folder).manifest
    kept = [m.calibration for m in (after.step_readout, after.trajectory_readout) if m is not None]
    assert any(kept), result.output
    trajectory = trainer.examples[0].trajectory
    with open_scorer(folder) as scorer:
        (score,) = scorer.score_batch([trajectory])
    assert 0 <= score.step_scores.min() <= score.step_scores.max() <= 1
    assert before.step_readout.calibration is None
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, TrainingError)
    assert "already calibrated" in str(again.exception)
    with pytest.raises(TrainingError, match="is not a checkpoint"):
        refuse_calibrated(tmp_path)
