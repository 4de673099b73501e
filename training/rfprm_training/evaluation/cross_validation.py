"""Evaluates a recipe on real solutions, each scored by a PRM that was not trained on its question.

For each fold of the questions, a PRM is trained on the other folds. The scores of all held-out
solutions together measure the recipe. The shipped PRM may then be trained on all of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_export.checkpoint import CHECKPOINT_NAME, checkpoint_digest
from rfprm_export.named_base import base_of_config
from rfprm_runtime.ground.claims import claimed_folder
from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_runtime.ground.progress import Progress, counting, silent, stage
from rfprm_runtime.ground.whole_files import remove_leftovers, write_whole
from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.held_out import (
    RankingReport,
    held_out_examples,
    open_scorer,
    rank_by_every_score,
    trained_in,
)
from rfprm_training.evaluation.set_figures import cross_fitted_calibration
from rfprm_training.evaluation.step_metrics import Calibration, calibration
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.gsm8k import read_rows
from rfprm_training.learning.config import (
    DataConfig,
    RewardedDataConfig,
    TrainingConfig,
    for_another_folder,
    read_config,
    write_config,
)
from rfprm_training.learning.model_card import FOLDS_NAME
from rfprm_training.learning.run_inputs import check_inputs, inputs_of
from rfprm_training.learning.trainer import Trainer

SCORES_NAME = "out_of_fold.jsonl"
SCORED_NAME = "out_of_fold.made_from.json"
_FORMAT_VERSION = 2
"""Rises when the code begins to give other scores."""


@dataclass(frozen=True)
class CrossValidation:
    """The figures over the scores of all folds."""

    num_folds: int
    num_solutions: int
    num_questions: int
    rankings: dict[str, RankingReport]
    outcome_calibration: Calibration | None
    """Of the trajectory score as it is; None if there are too few solutions."""
    outcome_calibration_fitted: Calibration | None
    """After temperature scaling, cross-fitted by question; None if the scores do not rise with the
    outcomes."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def cross_validate(
    config_path: Path,
    folder: Path,
    *,
    cache: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> CrossValidation:
    """Train a PRM for each fold, in subfolders of ``folder``, and evaluate what they held out.

    Running it again resumes. Raises :class:`TrainingError` if the config has no folds, or if
    ``folder`` holds folds of another config or other data.
    """
    config = read_config(config_path)
    _check_folds(config, config_path)
    folder.mkdir(parents=True, exist_ok=True)
    with claimed_folder(folder, "wait for it, or choose another folder for this one"):
        remove_leftovers(folder)
        examples: list[Example] = []
        scores: list[TrajectoryScore] = []
        for fold in range(config.data.num_folds):
            of_fold = _write_fold_config(config, config_path, fold, folder)
            run = folder / f"fold-{fold}"
            number = f"fold {fold + 1} of {config.data.num_folds}"
            told = partial(_of_fold, progress, number)
            _train_and_score(of_fold, run, cache or folder / "activations", device, told)
            for example, score in read_out_of_fold(run):
                examples.append(example)
                scores.append(score)
        write_out_of_fold(folder / SCORES_NAME, examples, scores)
        found = summarise_folds(examples, scores, num_folds=config.data.num_folds)
        write_whole(folder / FOLDS_NAME, json.dumps(found.as_dict(), indent=2) + "\n")
    return found


def _check_folds(config: TrainingConfig, path: Path) -> None:
    data = config.data
    if isinstance(data, DataConfig) and data.model_solutions is None:
        raise TrainingError(
            f"{path} has no real solutions to divide into folds; set data.model_solutions"
        )
    if isinstance(data, RewardedDataConfig) and data.evaluation:
        raise TrainingError(
            f"{path} holds out the files of data.evaluation; leave them out to divide the "
            "questions of data.train into folds"
        )


def _of_fold(progress: Progress, fold: str, stage: str, done: int, total: int) -> None:
    progress(f"{fold}, {stage}", done, total)


def _train_and_score(
    config_path: Path, run: Path, cache: Path, device: str, progress: Progress
) -> None:
    """Do for one fold what is not done yet."""
    config = read_config(config_path)
    if (run / CHECKPOINT_NAME).is_file():
        check_inputs(run, inputs_of(config, config_path.parent), config)
    else:
        Trainer(config_path, run, cache=cache, device=device).run(progress=progress)
    made_from = MadeFrom(run / SCORED_NAME)
    now = {"format_version": _FORMAT_VERSION, "checkpoint": checkpoint_digest(run)}
    if not ((run / SCORES_NAME).is_file() and made_from.is_recorded and not made_from.changes(now)):
        write_out_of_fold(run / SCORES_NAME, *_score_held_out(run, config, progress))
        made_from.record(now)


def _write_fold_config(config: TrainingConfig, config_path: Path, fold: int, folder: Path) -> Path:
    data = config.data.model_copy(update={"held_out_fold": fold})
    changed = for_another_folder(config, config_path.parent).model_copy(update={"data": data})
    path = folder / f"fold-{fold}.toml"
    write_config(changed, path)
    return path


def _score_held_out(
    run: Path, config: TrainingConfig, progress: Progress
) -> tuple[list[Example], list[TrajectoryScore]]:
    examples = _judged(config)
    on_scored = counting(stage(progress, "scoring, trace"), len(examples))
    base = base_of_config(config.base, run)
    with open_scorer(run, base=base, dtype=trained_in(run)) as scorer:
        return examples, scorer.score_batch([e.trajectory for e in examples], on_scored=on_scored)


def _judged(config: TrainingConfig) -> list[Example]:
    """Held-out real solutions, with labels for their steps if these were graded. Of rewarded
    trajectories those whose own outcome is known: that is what scores are measured by, whatever
    rewards they are trained on."""
    sampled, others = held_out_examples(config)
    if isinstance(config.data, DataConfig) and config.data.sampled_steps != "verified":
        # The others are the outcome again: enough to learn from, no truth to judge a step by.
        sampled = [
            replace(example, step_labels=(UNKNOWN,) * len(example.step_labels))
            for example in sampled
        ]
    found = sampled + [
        replace(example, trajectory_label=float(example.trajectory.outcome))
        for example in others
        if example.kind == "rewarded" and example.trajectory.outcome is not None
    ]
    if not found:
        raise TrainingError(
            f"fold {config.data.held_out_fold} holds out no solution whose outcome is known; give "
            "more questions, or fewer folds"
        )
    return found


def summarise_folds(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore], *, num_folds: int
) -> CrossValidation:
    """All figures from the scores of held-out solutions. Pure."""
    right = np.array([example.trajectory_label > 0.5 for example in examples])
    values = np.array([score.trajectory_score for score in scores], dtype=np.float64)
    groups = [example.group for example in examples]
    fitted = cross_fitted_calibration(Claims().log_odds(values), right, groups)
    return CrossValidation(
        num_folds=num_folds,
        num_solutions=len(examples),
        num_questions=len(set(groups)),
        rankings=rank_by_every_score(examples, scores),
        outcome_calibration=calibration(values, right),
        outcome_calibration_fitted=None if fitted is None else calibration(fitted, right),
    )


def write_out_of_fold(
    path: Path, examples: Sequence[Example], scores: Sequence[TrajectoryScore]
) -> None:
    """What :func:`read_out_of_fold` reads."""
    rows = (
        {
            "group": example.group,
            "trajectory": example.trajectory.model_dump(mode="json"),
            "outcome": example.trajectory_label,
            "step_labels": [None if math.isnan(label) else label for label in example.step_labels],
            "step_scores": score.step_scores.tolist(),
            "trajectory_score": score.trajectory_score,
            "reward": score.reward,
            "num_tokens": score.num_tokens,
        }
        for example, score in zip(examples, scores, strict=True)
    )
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_out_of_fold(folder: Path) -> Iterator[tuple[Example, TrajectoryScore]]:
    """Solutions with their outcome and the labels of their steps, as far as these are known, and
    their scores by the PRM that was not trained on their question.

    ``folder`` is that of the cross-validation, or of one fold. Raises :class:`TrainingError` if it
    holds no scores.
    """
    for row in read_rows(folder / SCORES_NAME):
        trajectory = Trajectory(**row["trajectory"])
        # Older files have none.
        labels = row.get("step_labels") or [None] * len(trajectory.steps)
        steps = tuple(UNKNOWN if label is None else float(label) for label in labels)
        names = ("step_scores", "trajectory_score", "reward", "num_tokens")
        score = TrajectoryScore(**{name: row[name] for name in names})
        yield Example(trajectory, steps, row["outcome"], row["group"], "sampled", True), score
