from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rfprm_export.checkpoint import load_prm, read_checkpoint
from rfprm_runtime.artifact.manifest import Calibration, FirstErrorRule
from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.commands import calibrate
from rfprm_training.evaluation.calibrate import (
    CalibrationResult,
    KnownScores,
    collect_scores,
    fit_alpha,
    fit_calibration,
    one_after,
    refuse_calibrated,
    write_rule,
)
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.cross_validation import SCORES_NAME, write_out_of_fold
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.learning.config import read_config
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
    rows: list[dict[str, Any]] = []
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
    assert "scores are calibrated: temperature" in (folder / "README.md").read_text()
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
    assert "--refit" in str(again.exception)
    with pytest.raises(TrainingError, match="is not a checkpoint"):
        refuse_calibrated(tmp_path)
    # On other data, where steps are right less often, they are fitted again; the rest stays.
    for row in rows:
        if len(row["question"]) % 2:
            row["step_rewards"] = [0.0] * len(row["step_rewards"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_rule(folder, FirstErrorRule(wrong_below=0.7))
    result = CliRunner().invoke(app, [*arguments, "--refit", "--only", "step"])
    assert result.exit_code == 0, result.output
    assert "trajectory scores" not in result.output
    assert (
        "first errors was fitted for the step scores as they were, and is dropped" in result.output
    )
    assert read_checkpoint(folder).first_error is None
    refitted = load_prm(folder).manifest
    assert refitted.trajectory_readout == after.trajectory_readout
    assert refitted.step_readout.calibration is not None
    assert refitted.step_readout != after.step_readout
    assert f"temperature {refitted.step_readout.calibration.temperature:.3f}" in result.output
    with open_scorer(folder) as scorer:
        (less,) = scorer.score_batch([trajectory])
    assert less.trajectory_score == pytest.approx(score.trajectory_score)
    assert less.step_scores.mean() < score.step_scores.mean()


def test_a_second_fit_gives_what_the_first_would_on_its_data() -> None:
    examples, scores = boastful(500)
    bare = fit_calibration("step", examples, scores, fitted_on="second")
    first = Calibration(temperature=0.5, bias=-1.5, fitted_on="first")
    moved = [
        score.model_copy(update={"step_scores": Claims().calibrated(score.step_scores, first)})
        for score in scores
    ]
    onto = fit_calibration("step", examples, moved, fitted_on="second")
    assert bare is not None
    assert onto is not None
    whole = one_after(first, onto.fitted)
    # Scores of almost 0 and 1 have lost their last digits.
    assert whole.temperature == pytest.approx(bare.fitted.temperature, rel=0.02)
    assert whole.bias == pytest.approx(bare.fitted.bias, abs=0.02)
    assert whole.fitted_on.startswith("1500 scores of second")
    assert one_after(None, first) == first


def test_scores_of_folds_are_calibrated_as_the_checkpoint_is(
    write_config: Any, tmp_path: Path
) -> None:
    folder = Trainer(write_config(), tmp_path / "run", device="cpu").run()
    examples, scores = ranked(60, better="trajectory")
    write_out_of_fold(tmp_path / SCORES_NAME, examples, scores)
    before = fit_calibration(
        "trajectory",
        examples,
        scores,
        fitted_on="folds",
        readout=load_prm(folder).manifest.trajectory_readout,
    )
    app = typer.Typer()
    app.command()(calibrate)
    for _ in range(2):
        only = ["--folds", str(tmp_path), "--only", "trajectory", "--refit"]
        result = CliRunner().invoke(app, [str(folder), *only])
        assert result.exit_code == 0, result.output
        kept = load_prm(folder).manifest.trajectory_readout
        assert before is not None
        assert kept is not None
        assert kept.calibration is not None
        assert kept.calibration.temperature == pytest.approx(before.fitted.temperature, rel=1e-3)
    known = collect_scores(folder, [], folds=tmp_path, kinds=["trajectory"])
    assert list(known) == ["trajectory"]
    found = [one.trajectory_score for one in known["trajectory"].scores]
    raw = [one.trajectory_score for one in scores]
    np.testing.assert_allclose(found, Claims().calibrated(raw, kept.calibration), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fit-alpha", "--only", "step"], "leave out --only"),
        (["--first-error", "--refit"], "goes with --on"),
        (["--first-error", "--only", "step"], "goes with --on"),
        (["--only", "steps"], "is not one of"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], message: str) -> None:
    app = typer.Typer()
    app.command()(calibrate)
    result = CliRunner().invoke(app, [str(tmp_path), *options], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in result.output


def ranked(num_questions: int, *, better: str) -> tuple[list[Example], list[TrajectoryScore]]:
    """Two right and two wrong solutions to each question. One of the two scores tells them apart,
    the other one is noise."""
    rng = np.random.default_rng(1)
    examples, scores = [], []
    for index in range(num_questions):
        for right in (True, True, False, False):
            knowing, noise = 0.5 + (0.2 if right else -0.2) + rng.normal(0, 0.1), rng.random()
            steps, whole = (knowing, noise) if better == "steps" else (noise, knowing)
            trajectory = Trajectory(question=f"q{index}", steps=("a", "b"))
            examples.append(
                Example(trajectory, (float("nan"),) * 2, float(right), f"q{index}", "test")
            )
            scores.append(
                TrajectoryScore(
                    step_scores=np.full(2, np.clip(steps, 0.01, 0.99), np.float32),
                    trajectory_score=float(np.clip(whole, 0.01, 0.99)),
                    reward=0.0,
                    num_tokens=1,
                )
            )
    return examples, scores


def known_of(examples: list[Example], scores: list[TrajectoryScore]) -> Any:
    return {"step": KnownScores(), "trajectory": KnownScores(examples, scores)}


def alpha_for(examples: list[Example], scores: list[TrajectoryScore], before: float) -> Any:
    return fit_alpha(known_of(examples, scores), [], before=before)


def test_alpha_goes_to_the_score_that_ranks_solutions() -> None:
    found = alpha_for(*ranked(80, better="steps"), before=7.0)
    assert found.chosen == 0.0
    assert found.helps
    assert found.auc_after > 0.95 > 0.7 > found.auc_before
    assert found.gap_after > found.gap_before
    found = alpha_for(*ranked(80, better="trajectory"), before=0.5)
    assert found.chosen >= 5
    assert found.auc_after > found.auc_before


def test_alpha_stays_where_another_is_no_better() -> None:
    examples, scores = ranked(80, better="steps")
    alike = [
        score.model_copy(update={"trajectory_score": float(score.step_scores[0])})
        for score in scores
    ]
    found = alpha_for(examples, alike, before=4.0)
    assert found.chosen == 4.0
    assert not found.helps


def test_alpha_needs_questions_with_both_outcomes_and_both_scores() -> None:
    examples, scores = ranked(49, better="steps")
    assert alpha_for(examples, scores, before=1.0) is None
    examples, scores = ranked(50, better="steps")
    assert alpha_for(examples, scores, before=1.0) is not None
    without = [score.model_copy(update={"trajectory_score": None}) for score in scores]
    assert alpha_for(examples, without, before=1.0) is None


def test_alpha_is_chosen_for_calibrated_scores() -> None:
    """Steps that say too little weigh more once their calibration has spread them."""
    examples, scores = ranked(80, better="steps")
    squeezed = [
        score.model_copy(update={"step_scores": 0.5 + (score.step_scores - 0.5) / 50})
        for score in scores
    ]
    known = known_of(examples, squeezed)
    stretched = Calibration(temperature=0.02, bias=0.0, fitted_on="test")
    result = CalibrationResult("step", 100, 0.3, 0.1, stretched)
    plain = fit_alpha(known, [], before=0.25)
    calibrated = fit_alpha(known, [result], before=0.25)
    assert plain is not None
    assert calibrated is not None
    assert plain.auc_before < 0.7 < 0.9 < calibrated.auc_before


def test_the_command_chooses_alpha_from_folds(write_config: Any, tmp_path: Path) -> None:
    folder = Trainer(write_config(), tmp_path / "run", device="cpu").run()
    examples, scores = ranked(60, better="trajectory")
    write_out_of_fold(tmp_path / SCORES_NAME, examples, scores)
    app = typer.Typer()
    app.command()(calibrate)
    result = CliRunner().invoke(app, [str(folder), "--folds", str(tmp_path), "--fit-alpha"])
    assert result.exit_code == 0, result.output
    assert "AUC within a question" in result.output
    assert "60 questions, cross-fitted" in result.output
    alpha = load_prm(folder).manifest.alpha
    assert alpha > read_config(folder / "config.toml").alpha
    assert f"{alpha:g} · trajectory score" in (folder / "README.md").read_text()


def test_steps_of_folds_are_fitted_on_where_they_were_graded(
    write_config: Any, tmp_path: Path
) -> None:
    folder = Trainer(write_config(), tmp_path / "run", device="cpu").run()
    unknown, scores = ranked(60, better="trajectory")
    graded = [replace(one, step_labels=(UNKNOWN, one.trajectory_label)) for one in unknown]
    write_out_of_fold(tmp_path / SCORES_NAME, graded, scores)
    of_steps = collect_scores(folder, [], folds=tmp_path)["step"]
    assert [one.step_labels[1] for one in of_steps.examples] == [
        one.trajectory_label for one in unknown
    ]
    assert all(math.isnan(one.step_labels[0]) for one in of_steps.examples)
    write_out_of_fold(tmp_path / SCORES_NAME, unknown, scores)
    found = collect_scores(folder, [], folds=tmp_path)
    assert not found["step"].examples
    assert len(found["trajectory"].examples) == len(unknown)
    # Files from before labels were kept have none either.
    rows = [json.loads(line) for line in (tmp_path / SCORES_NAME).read_text().splitlines()]
    older = [{k: v for k, v in row.items() if k != "step_labels"} for row in rows]
    (tmp_path / SCORES_NAME).write_text("".join(json.dumps(row) + "\n" for row in older))
    assert not collect_scores(folder, [], folds=tmp_path)["step"].examples
