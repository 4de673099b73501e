from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner

from rfprm_training import ConfigError, TrainingError
from rfprm_training.commands import cross_validate, evaluate
from rfprm_training.evaluation.cross_validation import (
    _judged,
    read_out_of_fold,
    summarise_folds,
)
from rfprm_training.evaluation.cross_validation import cross_validate as run
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.learning.config import read_config
from rfprm_training.learning.dataset import build_examples
from rfprm_training.learning.model_card import FOLDS_NAME
from rfprm_training.learning.trainer import Trainer
from rfprm_training.rewarded import fold_of
from tiny_runs import rewarded_config

WriteConfig = Callable[..., Path]


def test_every_solution_is_scored_by_a_prm_that_was_not_trained_on_its_question(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(("num_epochs = 2", "num_epochs = 1"))
    found = run(config, tmp_path / "folds", device="cpu")
    assert (found.num_folds, found.num_solutions, found.num_questions) == (3, 12, 6)
    pairs = list(read_out_of_fold(tmp_path / "folds"))
    assert len(pairs) == 12
    for fold in range(3):
        folder = tmp_path / "folds" / f"fold-{fold}"
        with open_scorer(folder) as scorer:
            of_fold = [pair for pair in pairs if int(pair[0].group.split("-")[1]) % 3 == fold]
            again = scorer.score_batch([example.trajectory for example, _ in of_fold])
        assert len(of_fold) == 4
        for (example, score), expected in zip(of_fold, again, strict=True):
            np.testing.assert_array_equal(score.step_scores, expected.step_scores)
            assert score.trajectory_score == expected.trajectory_score
            assert np.isnan(example.step_labels).all()
        # This PRM's training data has none of the fold's questions.
        settings = read_config(folder / "config.toml")
        trained = {
            e.trajectory.question
            for e in build_examples(settings.data, settings.seed)
            if not e.held_out
        }
        assert not trained & {example.trajectory.question for example, _ in of_fold}
    saved = json.loads((tmp_path / "folds" / FOLDS_NAME).read_text())
    assert saved["num_questions"] == 6
    assert set(saved["rankings"]) >= {"reward", "trajectory_score", "mean_step_score"}


@pytest.mark.parametrize("steps", ["none", "last", "outcome", "verified"])
def test_only_graded_steps_of_solutions_are_labels(write_config: WriteConfig, steps: str) -> None:
    config = write_config(("num_folds = 3", f'num_folds = 3\nsampled_steps = "{steps}"'))
    labels = np.concatenate([example.step_labels for example in _judged(read_config(config))])
    assert len(labels)
    assert np.isnan(labels).all() == (steps != "verified")


def test_finished_folds_are_not_trained_again(write_config: WriteConfig, tmp_path: Path) -> None:
    config, folder = write_config(("num_epochs = 2", "num_epochs = 1")), tmp_path / "folds"
    app = typer.Typer()
    app.command()(cross_validate)
    arguments = [str(config), "-o", str(folder), "--device", "cpu"]
    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    weights = [load_file(folder / f"fold-{i}" / "heads.safetensors") for i in range(3)]
    times = [(folder / f"fold-{i}" / "checkpoint.json").stat().st_mtime_ns for i in range(3)]
    second = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert first.output == second.output
    assert "12 real solutions to 6 held-out questions" in " ".join(first.output.split())
    assert times == [
        (folder / f"fold-{i}" / "checkpoint.json").stat().st_mtime_ns for i in range(3)
    ]
    # The folds differ, and share the activations below the trained layers.
    assert not np.array_equal(weights[0]["score.weight"], weights[1]["score.weight"])
    assert len(list((folder / "activations").glob("*.bin"))) == 1


def test_folds_of_another_config_are_refused(write_config: WriteConfig, tmp_path: Path) -> None:
    config, folder = write_config(("num_epochs = 2", "num_epochs = 1")), tmp_path / "folds"
    run(config, folder, device="cpu")
    other = write_config(("num_epochs = 2", "num_epochs = 3"), name="other.toml")
    with pytest.raises(TrainingError, match="holds a run of another config"):
        run(other, folder, device="cpu")


def test_folds_of_other_data_are_refused(
    write_config: WriteConfig, tiny_data: Path, tmp_path: Path
) -> None:
    solutions = shutil.copy(tiny_data / "solutions.jsonl", tmp_path)
    config = write_config(
        ("num_epochs = 2", "num_epochs = 1"), (str(tiny_data / "solutions.jsonl"), str(solutions))
    )
    run(config, tmp_path / "folds", device="cpu")
    kept, dropped = Path(solutions).read_text().split("\n", 1)
    Path(solutions).write_text(dropped + kept + "\n")
    with pytest.raises(TrainingError, match=r"holds a run on other data: .*solutions\.jsonl was"):
        run(config, tmp_path / "folds", device="cpu")


def test_a_config_without_real_solutions_has_no_folds(
    write_config: WriteConfig, tiny_data: Path, tmp_path: Path
) -> None:
    config = write_config((f'model_solutions = "{tiny_data / "solutions.jsonl"}"\n', ""))
    with pytest.raises(TrainingError, match="no real solutions to divide into folds"):
        run(config, tmp_path / "folds", device="cpu")


def write_rewarded(path: Path, *, outcomes: bool = True) -> Path:
    lines = []
    for i in range(36):
        fields = {
            "question": f"What is {i // 3} + 2?",
            "steps": [f"{i // 3} + 2 = {i // 3 + i % 3}", "Done."],
            "step_rewards": [float(i % 3 == 2), None],
            "trajectory_reward": 0.2,  # of a template, say
            "outcome": i % 3 == 2 if outcomes and i != 5 else None,
        }
        lines.append(json.dumps(fields) + "\n")
    path.write_text("".join(lines))
    return path


def test_rewarded_trajectories_are_divided_into_folds(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    rows = write_rewarded(tmp_path / "rewarded.jsonl")
    config = rewarded_config(
        write_config(("num_epochs = 2", "num_epochs = 1")), rows, "num_folds = 3"
    )
    found = run(config, tmp_path / "folds", device="cpu")
    assert (found.num_folds, found.num_solutions, found.num_questions) == (3, 35, 12)
    pairs = list(read_out_of_fold(tmp_path / "folds"))
    for example, _ in pairs:
        _, ends = example.trajectory.steps[0].split(" = ")
        right = int(ends) == int(example.trajectory.question.split()[2]) + 2
        assert example.trajectory_label == float(right)  # the outcome, whatever the reward
    for fold in range(3):
        settings = read_config(tmp_path / "folds" / f"fold-{fold}" / "config.toml")
        examples = build_examples(settings.data, settings.seed)
        of_fold = {e.group for e in examples if e.held_out}
        assert of_fold == {e.group for e in examples if fold_of(e.group, 3) == fold}
        assert of_fold
    assert len(list((tmp_path / "folds" / "activations").glob("*.bin"))) == 1


def test_folds_need_outcomes(write_config: WriteConfig, tmp_path: Path) -> None:
    rows = write_rewarded(tmp_path / "rewarded.jsonl", outcomes=False)
    config = rewarded_config(
        write_config(("num_epochs = 2", "num_epochs = 1")), rows, "num_folds = 3"
    )
    with pytest.raises(TrainingError, match="fold 0 holds out no solution whose outcome is known"):
        run(config, tmp_path / "folds", device="cpu")


def test_files_that_are_held_out_leave_no_folds(write_config: WriteConfig, tmp_path: Path) -> None:
    config = rewarded_config(
        write_config(), write_rewarded(tmp_path / "rewarded.jsonl"), "num_folds = 3"
    )
    text = config.read_text()
    held_out = f'evaluation = ["{tmp_path / "other.jsonl"}"]\n'
    config.write_text(text.replace("num_folds = 3\n", held_out))
    with pytest.raises(TrainingError, match="leave them out to divide the questions"):
        run(config, tmp_path / "folds", device="cpu")
    config.write_text(text.replace("num_folds = 3\n", f"{held_out}held_out_fold = 1\n"))
    with pytest.raises(ConfigError, match="and so does"):
        read_config(config)
    config.write_text(text.replace("num_folds = 3\n", "num_folds = 3\nheld_out_fold = 3\n"))
    with pytest.raises(ConfigError, match="the last of 3 folds is 2"):
        read_config(config)


def test_a_run_scores_what_it_held_out(write_config: WriteConfig, tmp_path: Path) -> None:
    rows = write_rewarded(tmp_path / "rewarded.jsonl")
    config = rewarded_config(
        write_config(("num_epochs = 2", "num_epochs = 1")), rows, "num_folds = 3"
    )
    config.write_text(
        config.read_text().replace("num_folds = 3", "num_folds = 3\nheld_out_fold = 1")
    )
    trainer = Trainer(config, tmp_path / "run", device="cpu")
    with pytest.raises(TrainingError, match=r"call run\(\) first"):
        trainer.score_held_out()
    folder = trainer.run()
    found = trainer.score_held_out()
    held_out = [i for i, example in enumerate(trainer.examples) if example.held_out]
    assert sorted(found) == held_out
    with open_scorer(folder) as scorer:
        again = scorer.score_batch([trainer.examples[i].trajectory for i in held_out])
    for index, expected in zip(held_out, again, strict=True):
        score = found[index]
        np.testing.assert_allclose(score.step_scores, expected.step_scores, atol=1e-5)
        assert score.trajectory_score == pytest.approx(expected.trajectory_score, abs=1e-5)
        assert score.reward == pytest.approx(expected.reward, abs=2e-5)
        assert score.num_tokens == expected.num_tokens


def test_a_perfect_prm_recovers_the_whole_gap(write_config: WriteConfig, tmp_path: Path) -> None:
    run(write_config(("num_epochs = 2", "num_epochs = 1")), tmp_path / "folds", device="cpu")
    pairs = list(read_out_of_fold(tmp_path / "folds"))
    examples = [example for example, _ in pairs]
    knowing = [
        score.model_copy(
            update={
                "trajectory_score": example.trajectory_label,
                "reward": example.trajectory_label,
            }
        )
        for example, score in pairs
    ]
    # Four times, because calibration needs a minimum of scores.
    found = summarise_folds(examples * 4, knowing * 4, num_folds=3)
    assert found.rankings["reward"].gap_recovered.value == 1.0
    assert found.rankings["trajectory_score"].auc_within_question.value == 1.0
    assert found.outcome_calibration is not None
    assert found.outcome_calibration.ece == pytest.approx(0.0, abs=1e-9)


def test_the_model_card_shows_the_figures_of_the_folds(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    short = write_config(("num_epochs = 2", "num_epochs = 1"))
    whole = write_config(
        ("num_epochs = 2", "num_epochs = 1"), ("\nheld_out_fold = 0", ""), name="whole.toml"
    )
    run(short, tmp_path / "folds", device="cpu")
    folder = Trainer(whole, tmp_path / "run", device="cpu").run()
    shutil.copy(tmp_path / "folds" / FOLDS_NAME, folder)
    evaluate(folder, output=folder / "evaluation.json")
    card = (folder / "README.md").read_text()
    assert "12 real solutions to 6 questions" in card
    assert "(3 folds)" in card
    assert "| reward |" in card
    assert "constructed trajectories of held-out questions" in card
