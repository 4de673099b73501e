"""The rule that is fitted for finding first errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rfprm_export.checkpoint import load_prm, read_checkpoint
from rfprm_export.reference import has_reference, record_reference
from rfprm_runtime.artifact.manifest import Calibration, FirstErrorRule, Manifest
from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.commands import calibrate
from rfprm_training.evaluation.calibrate import CalibrationResult, write_calibration
from rfprm_training.evaluation.first_errors import fit_rule
from rfprm_training.evaluation.metrics import FirstError, first_error_accuracy
from rfprm_training.evaluation.set_figures import summarise_set
from rfprm_training.example import Example
from rfprm_training.learning.trainer import Trainer
from tiny_models import byte_tokenizer, tiny_manifest

Marked = tuple[list[Example], list[TrajectoryScore]]


def marked(count: int) -> Marked:
    """Half of the traces have an error in their second step, with scores about 0.68; right steps
    have 0.8. A quarter of the right traces have a step as low."""
    rng = np.random.default_rng(0)
    examples, scores = [], []
    for index in range(count):
        is_right = index % 2 == 0
        steps = np.full(3, 0.8) + rng.normal(0, 0.02, 3)
        if not is_right or index % 8 == 0:
            steps[1] = 0.68 + rng.normal(0, 0.02)
        labels = (1.0, 1.0, 1.0) if is_right else (1.0, 0.0, 0.0)
        trajectory = Trajectory(question=f"q{index}", steps=("a", "b", "c"))
        examples.append(Example(trajectory, labels, float(is_right), f"q{index}", "test"))
        scores.append(
            TrajectoryScore(
                step_scores=steps.astype(np.float32),
                trajectory_score=0.5,
                reward=0.0,
                num_tokens=1,
            )
        )
    return examples, scores


def found_below(
    examples: list[Example], scores: list[TrajectoryScore], threshold: float
) -> FirstError:
    steps = [score.step_scores for score in scores]
    return first_error_accuracy(steps, [example.first_error for example in examples], threshold)


def manifest(**changes: Any) -> Manifest:
    return tiny_manifest(byte_tokenizer(), **changes)


def test_the_best_threshold_is_found() -> None:
    examples, scores = marked(400)
    found = fit_rule(examples, scores, fitted_on="made-up traces")
    assert found is not None
    assert found.before == FirstErrorRule(wrong_below=0.5)
    assert found.found_before.f1 == 0.0  # nothing is more likely wrong than right
    assert 0.7 < found.chosen.wrong_below < 0.78
    assert found.found_after.wrong_located > 0.95
    assert found.found_after.right_accepted == pytest.approx(0.75, abs=0.03)
    assert found.helps
    assert "400 traces of made-up traces: F1 0.8" in found.chosen.fitted_on
    assert found_below(examples, scores, found.chosen.wrong_below).f1 > 0.8


def test_a_rule_that_is_good_already_is_left() -> None:
    examples, scores = marked(400)
    first = fit_rule(examples, scores, fitted_on="traces")
    assert first is not None
    again = fit_rule(examples, scores, fitted_on="traces", before=first.chosen)
    assert again is not None
    assert again.before == first.chosen
    assert not again.helps


@pytest.mark.parametrize("wrong", [0, 40])
def test_too_few_traces_fit_nothing(wrong: int) -> None:
    examples, scores = marked(400)
    right = [i for i, example in enumerate(examples) if example.first_error is None]
    chosen = right + [i for i in range(400) if i not in right][:wrong]
    some = [examples[i] for i in chosen], [scores[i] for i in chosen]
    assert fit_rule(*some, fitted_on="traces") is None


def test_traces_without_labels_do_not_count() -> None:
    examples, scores = marked(400)
    trajectory = Trajectory(question="q", steps=("a", "b", "c"))
    unknown = Example(trajectory, (float("nan"),) * 3, 1.0, "q", "test")
    with_others = fit_rule(
        [*examples, *[unknown] * 100], [*scores, *[scores[0]] * 100], fitted_on="traces"
    )
    assert with_others == fit_rule(examples, scores, fitted_on="traces")


def test_an_evaluation_says_what_the_rule_finds() -> None:
    examples, scores = marked(400)
    rule = FirstErrorRule(wrong_below=0.74)
    found = summarise_set(examples, scores, manifest(first_error=rule))
    assert found.first_error_by_rule == found_below(examples, scores, rule.wrong_below)
    assert found.as_dict()["first_error_by_rule"]["f1"] > 0.8
    assert summarise_set(examples, scores, manifest()).first_error_by_rule is None
    # A trace without a score counts as one without an error.
    unscored = summarise_set(examples, [None] * 10 + scores[10:], manifest(first_error=rule))
    assert unscored.first_error_by_rule is not None
    assert unscored.first_error_by_rule.wrong_located < 0.99


def test_the_command_writes_the_rule_and_keeps_the_reference(
    write_config: Any, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Trainer(write_config(), tmp_path / "run", device="cpu").run()
    record_reference(folder)
    examples, _ = marked(400)
    path = tmp_path / "rewarded.jsonl"
    rows = [
        {
            "question": e.trajectory.question,
            "steps": e.trajectory.steps,
            "step_rewards": e.step_labels,
            "trajectory_reward": e.trajectory_label,
        }
        for e in examples
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    app = typer.Typer()
    app.command()(calibrate)
    before = load_prm(folder).manifest
    chosen = FirstErrorRule(wrong_below=0.7, fitted_on="made-up traces")

    def fit(examples: Any, scores: Any, **given: Any) -> Any:
        found = fit_rule(examples, scores, **given)
        assert found is not None
        assert found.num_traces == 400
        return type(found)(found.before, chosen, 400, found.found_before, _Perfect())  # type: ignore[arg-type]

    monkeypatch.setattr("rfprm_training.evaluation.first_errors.fit_rule", fit)
    arguments = [str(folder), "--first-error", "--on", f"rewarded:{path}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "400 traces, cross-fitted by question" in result.output
    assert read_checkpoint(folder).first_error == chosen
    after = load_prm(folder).manifest
    assert after.first_error == chosen
    assert after.step_readout == before.step_readout
    assert has_reference(folder)
    card = (folder / "README.md").read_text()
    assert "score below 0.7, fitted on made-up traces." in card
    with_folds = CliRunner().invoke(app, [*arguments, "--folds", str(tmp_path)])
    assert with_folds.exit_code == 2
    of_another = CliRunner().invoke(app, [*arguments, "--artifact", str(tiny_artifact)])
    assert isinstance(of_another.exception, TrainingError)
    assert "was not exported from" in str(of_another.exception)
    some = path.read_text().splitlines(keepends=True)[:40]
    path.write_text("".join(some))
    monkeypatch.undo()
    few = CliRunner().invoke(app, arguments)
    assert "needs 50 right and 50 wrong traces" in few.output
    assert read_checkpoint(folder).first_error == chosen
    nowhere = CliRunner().invoke(app, [str(tmp_path), "--first-error", "--on", f"rewarded:{path}"])
    assert isinstance(nowhere.exception, TrainingError)
    # It is for step scores as they are.
    for kind, stays in (("trajectory", True), ("step", False)):
        fitted = CalibrationResult(kind, 200, 0.2, 0.1, Calibration(temperature=2.0))  # type: ignore[arg-type]
        write_calibration(folder, [fitted])
        assert (read_checkpoint(folder).first_error is not None) == stays


class _Perfect:
    f1 = 1.0
