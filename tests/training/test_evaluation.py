from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.evaluation.held_out import (
    evaluate_scorer,
    open_scorer,
    rank_by_every_score,
    source_accuracy,
    summarise,
)
from rfprm_training.evaluation.printing import print_evaluation
from rfprm_training.learning.config import read_config
from rfprm_training.learning.dataset import Example, build_examples
from rfprm_training.learning.model_card import EVALUATION_NAME, write_model_card
from rfprm_training.learning.trainer import Trainer

WriteConfig = Callable[..., Path]


def score_of(step_scores: list[float], trajectory_score: float) -> TrajectoryScore:
    reward = float(np.mean(step_scores)) + trajectory_score
    return TrajectoryScore(
        step_scores=step_scores,
        trajectory_score=trajectory_score,
        reward=reward,
        num_tokens=10 * len(step_scores),
    )


def knowing(example: Example) -> TrajectoryScore:
    """The scores of a PRM that knows the labels."""
    labels = [1.0 if np.isnan(label) else label for label in example.step_labels]
    return score_of(labels, example.trajectory_label)


@pytest.fixture
def held_out(write_config: WriteConfig) -> tuple[list[Example], list[Example]]:
    config = read_config(write_config())
    examples = [e for e in build_examples(config.data, config.seed) if e.held_out]
    sampled = [example for example in examples if example.kind == "sampled"]
    return sampled, [example for example in examples if example.kind != "sampled"]


def test_a_prm_that_knows_the_labels_is_perfect(
    held_out: tuple[list[Example], list[Example]],
) -> None:
    sampled, constructed = held_out
    evaluation = summarise(
        sampled, list(map(knowing, sampled)), constructed, list(map(knowing, constructed))
    )
    reward = evaluation.rankings["reward"]
    assert reward.auc.value == reward.auc_within_question.value == 1.0
    assert reward.gap_recovered.value == reward.best_of_n.picked == 1.0
    assert (evaluation.first_error.wrong_located, evaluation.first_error.f1) == (1.0, 1.0)
    assert evaluation.constructed_auc_within_question.value == 1.0
    assert (evaluation.num_solutions, evaluation.num_questions) == (4, 2)
    assert evaluation.num_constructed == 6
    assert evaluation.first_error_at_half.f1 == 1.0
    assert set(evaluation.first_error_by_kind.values()) == {1.0}
    many = constructed * 8
    calibration = summarise([], [], many, list(map(knowing, many))).step_calibration
    assert calibration is not None
    assert calibration.ece == 0.0


def test_without_real_solutions_only_the_constructed_ones_are_measured(
    held_out: tuple[list[Example], list[Example]],
) -> None:
    _, constructed = held_out
    evaluation = summarise([], [], constructed, list(map(knowing, constructed)))
    assert evaluation.rankings == {}
    assert (evaluation.num_solutions, evaluation.num_questions) == (0, 0)
    assert evaluation.first_error.f1 == 1.0


def test_thresholds_come_from_the_other_folds() -> None:
    """Scores in the right order, but around another threshold than 0.5, lose nothing."""
    examples, scores = [], []
    for index in range(40):
        trajectory = Trajectory(question=f"q{index}", steps=("a", "b"))
        for kind, label, score in (("gold", 1.0, 0.3), ("wrong_result", 0.0, 0.1)):
            examples.append(Example(trajectory, (1.0, label), label, f"q{index}", kind))
            scores.append(score_of([0.3, score], 0.5))
    evaluation = summarise([], [], examples, scores)
    assert evaluation.first_error.f1 == 1.0
    assert all(0.1 < threshold < 0.3 for threshold in evaluation.thresholds)
    assert evaluation.first_error_at_half.f1 == 0.0
    assert evaluation.first_error_by_kind == {"wrong_result": 1.0}


def test_a_prm_that_prefers_wrong_solutions_is_worse_than_random(
    held_out: tuple[list[Example], list[Example]],
) -> None:
    sampled, constructed = held_out
    upside_down = [
        score_of([0.4] * len(e.step_labels), 1 - e.trajectory_label)
        for e in (*sampled, *constructed)
    ]
    evaluation = summarise(
        sampled, upside_down[: len(sampled)], constructed, upside_down[len(sampled) :]
    )
    assert evaluation.rankings["reward"].auc_within_question.value == 0.0
    assert evaluation.rankings["reward"].gap_recovered.value == -1.0
    assert evaluation.rankings["mean_step_score"].auc_within_question.value == 0.5
    assert evaluation.first_error.right_accepted == 0.0


def test_knowing_the_source_of_a_solution_is_a_baseline() -> None:
    """Of two models, one is right in three of four cases, the other in one."""
    outcomes = {"strong": [1, 1, 1, 0], "weak": [0, 0, 0, 1]}
    examples = [
        Example(
            Trajectory(question=f"q{index}", steps=("a",), source=source),
            (np.nan,),
            float(is_right),
            f"q{index}",
            "sampled",
        )
        for source, of_source in outcomes.items()
        for index, is_right in enumerate(of_source)
    ]
    groups = [example.group for example in examples]
    right = [bool(example.trajectory_label) for example in examples]
    known = source_accuracy([e.trajectory.source for e in examples], groups, right)
    assert known is not None
    # Of the other three questions, so that no solution's own outcome counts.
    np.testing.assert_allclose(known, [2 / 3, 2 / 3, 2 / 3, 1, 1 / 3, 1 / 3, 1 / 3, 0])
    found = rank_by_every_score(examples, list(map(knowing, examples)))
    baseline = found["better_source_first"]
    assert baseline.auc_within_question.value == baseline.best_of_n.picked == 0.75
    assert baseline.auc_against_source is not None
    assert baseline.auc_against_source.value == 0.0
    assert found["reward"].auc_against_source is not None
    assert found["reward"].auc_against_source.value == 1.0
    # There is nothing to know if all are of one model, or each question of its own.
    alike = [
        replace(e, trajectory=e.trajectory.model_copy(update={"source": "x"})) for e in examples
    ]
    found = rank_by_every_score(alike, list(map(knowing, alike)))
    assert "better_source_first" not in found
    assert found["reward"].auc_against_source is None
    sources = ["strong", "weak", "strong", "weak"]
    assert source_accuracy(sources, ["a", "b", "c", "d"], [True] * 4) is None
    # Nor of a source that has answered one question alone.
    assert source_accuracy([*sources, "other"], ["a", "a", "b", "b", "b"], [True] * 5) is None


def test_a_config_that_holds_nothing_out_cannot_be_evaluated(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    folder = Trainer(write_config(), tmp_path / "run", device="cpu").run()
    nothing = write_config(("num_constructed_held_out = 3", "num_constructed_held_out = 0"))
    with open_scorer(folder) as scorer, pytest.raises(TrainingError, match="held_out"):
        evaluate_scorer(scorer, read_config(nothing))


def test_figures_are_left_out_if_too_few_examples_are_held_out(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(("num_constructed_held_out = 3", "num_constructed_held_out = 1"))
    folder = Trainer(config, tmp_path / "run", device="cpu").run()
    with open_scorer(folder) as scorer:
        evaluation = evaluate_scorer(scorer, read_config(config))
    assert evaluation.num_constructed == 2
    assert evaluation.step_calibration is None
    (folder / EVALUATION_NAME).write_text(json.dumps(evaluation.as_dict()), encoding="utf-8")
    write_model_card(folder)
    assert "On 2 constructed trajectories" in (folder / "README.md").read_text(encoding="utf-8")
    said = io.StringIO()
    print_evaluation(Console(file=said, width=200), evaluation)
    assert "2 constructed trajectories" in said.getvalue()
    assert "ECE" not in said.getvalue()


def test_train_and_evaluate_work_from_the_command_line(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    import typer

    from rfprm_training.commands import evaluate, train

    app = typer.Typer()
    app.command()(train)
    app.command()(evaluate)
    folder, figures = tmp_path / "run", tmp_path / "evaluation.json"
    arguments = ["train", str(write_config()), "-o", str(folder), "--device", "cpu"]
    trained = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert (trained.exit_code, folder.name in trained.output) == (0, True)
    measured = CliRunner().invoke(
        app, ["evaluate", str(folder), "-o", str(figures)], catch_exceptions=False
    )
    assert measured.exit_code == 0
    assert "AUC within a question" in " ".join(measured.output.split())
    saved = json.loads(figures.read_text())
    assert saved["num_solutions"] == 4
    reward = saved["rankings"]["reward"]["auc_within_question"]
    assert 0.0 <= reward["low"] <= reward["value"] <= reward["high"] <= 1.0


def test_a_trained_checkpoint_can_be_exported_and_verified_without_torch(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rfprm_export import reference
    from rfprm_export.artifact_writer import export_artifact
    from rfprm_training.commands import train

    train(write_config(), output=tmp_path / "run", device="cpu")
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    manifest = export_artifact(tmp_path / "run", tmp_path / "artifact")
    assert manifest.parity is not None
    assert manifest.parity.reference.startswith("recorded: torch")
    assert manifest.parity.max_difference <= 1e-4
