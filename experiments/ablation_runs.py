"""The PRMs of the ablation: what each variant is trained on, and the scores that it gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import CHECKPOINT_NAME
from rfprm_runtime.artifact.manifest import MANIFEST_NAME
from rfprm_runtime.ground.progress import shown_stages
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_training.evaluation.evaluated_sets import evaluate_sets
from rfprm_training.labelling.step_rewards import fuse
from rfprm_training.learning.config import RewardedDataConfig, TrainingConfig, write_config
from rfprm_training.learning.dataset import has_a_label
from rfprm_training.learning.trainer import Trainer
from rfprm_training.rewarded import RewardedTrajectory, known_or_nan, known_or_none


@dataclass(frozen=True)
class Variant:
    """What a PRM is trained on."""

    components: tuple[str, ...]
    """Of the step reward, fused; without any, the steps have no labels."""
    trajectory: bool = True
    """Whether the reward of the whole trace is known."""


ALL_PARTS = ("alignment", "coherence", "quality")
VARIANTS = {
    "outcome": Variant(()),
    "+ alignment": Variant(("alignment",)),
    "+ coherence": Variant(("coherence",)),
    "+ quality": Variant(("quality",)),
    "+ all three": Variant(ALL_PARTS),
    "all three, no trajectory reward": Variant(ALL_PARTS, trajectory=False),
}


def labelled_as(variant: Variant, row: RewardedTrajectory) -> RewardedTrajectory:
    """``row`` with the labels that a variant knows. Raises :class:`SystemExit` if the file lacks a
    component."""
    missing = [name for name in variant.components if name not in row.components]
    if missing:
        raise SystemExit(f"the labels have no {missing}; set steps.components in rfprm label")
    rewards: tuple[float | None, ...] = (None,) * len(row.trajectory.steps)
    if variant.components:
        chosen = {name: np.array(known_or_nan(row.components[name])) for name in variant.components}
        rewards = known_or_none(fuse(chosen))
    return row.model_copy(
        update={
            "step_rewards": rewards,
            "trajectory_reward": row.trajectory_reward if variant.trajectory else None,
            "components": {},
        }
    )


def train(
    template: TrainingConfig,
    rows: Sequence[RewardedTrajectory],
    seed: int,
    num_folds: int,
    folder: Path,
) -> dict[str, list[Any]]:
    """A run for each fold; the step scores and the trajectory score of each row."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = folder / "labels.jsonl"
    write_whole(labels, "".join(row.to_line() for row in rows))
    found: dict[str, dict[str, Any]] = {}
    for fold in range(num_folds):
        data = RewardedDataConfig(
            kind="rewarded", train=(labels,), num_folds=num_folds, held_out_fold=fold
        )
        name = f"{template.name}-{folder.name}-{fold}"
        config = folder / f"fold-{fold}.toml"
        write_config(template.model_copy(update={"name": name, "seed": seed, "data": data}), config)
        found.update(_scores_of_fold(config, folder / f"fold-{fold}"))
    ordered = [found[str(index)] for index in range(len(rows))]
    return {kind: [scores[kind] for scores in ordered] for kind in ("steps", "trajectory")}


def _scores_of_fold(config: Path, run: Path) -> dict[str, dict[str, Any]]:
    """The scores of what a run held out, by row; the run is made if they are not there yet."""
    kept = run.with_name(f"{run.name}-scores.json")
    if not kept.is_file():
        if (run / CHECKPOINT_NAME).is_file():  # stopped before its scores were written
            shutil.rmtree(run)
        # All runs have the same traces in the same order, so they share the frozen states.
        trainer = Trainer(config, run, cache=run.parent.parent / "activations")
        with shown_stages(None) as progress:
            trainer.run(progress=progress)
            scores = {
                index: {
                    "steps": [round(float(value), 5) for value in score.step_scores],
                    "trajectory": float(score.trajectory_score or 0.0),
                }
                for index, score in trainer.score_held_out().items()
            }
        write_whole(kept, json.dumps(scores))
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def measure_sets(run: Path, specs: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """The figures of labelled sets, by file."""
    if not specs:
        return {}
    artifact = run.with_name(f"{run.name}-artifact")
    if not (artifact / MANIFEST_NAME).is_file():
        export_artifact(run, artifact, precision="fp32")
    return {
        spec.partition(":")[2]: {
            "step_auc": None if one.step_auc is None else one.step_auc.value,
            "first_error_f1": None if one.first_error is None else one.first_error.f1,
        }
        for spec, one in evaluate_sets(specs, model=artifact).sets.items()
    }


def usable(rows: Iterable[RewardedTrajectory]) -> list[RewardedTrajectory]:
    """Rows that can be judged and that every variant has a label for: all train on the same."""
    return [
        row
        for row in rows
        if row.trajectory.outcome is not None
        and all(has_a_label(labelled_as(v, row).as_example()) for v in VARIANTS.values())
    ]
