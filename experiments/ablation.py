"""Which parts of the reward design earn their place: one PRM for each, trained and judged alike.

python -m experiments.ablation LABELS --config experiments/configs/ablation.toml -o runs/ablation \\
    [--on prmbench:FILE …] [--folds 3] [--seeds 0 1 2] [--keep]

LABELS is a file of `rfprm label` with the components alignment, coherence and quality and a
trajectory reward, several traces of each question. A variant keeps some of them; the rest of its
labels is unknown to training. CONFIG gives the base model, the network, the loss and the optimiser;
its data is replaced. Every trace is scored by a PRM that was trained on the other folds of the
questions, and ranked by its own outcome; its step scores are compared with the quality of the
steps. `--on` adds labelled sets, as `rfprm evaluate` takes them, for the PRM of the first fold.
Finished runs are kept, and a stopped one goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from rich.console import Console
from rich.table import Table

from benchmarks.report import over_questions, write_json
from benchmarks.runner import environment
from experiments import RESULTS
from experiments.kept import check_made_alike, kept_runs, slug
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import CHECKPOINT_NAME
from rfprm_runtime.artifact.manifest import MANIFEST_NAME
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.ground.progress import shown_stages
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_training.evaluation import metrics
from rfprm_training.evaluation.alpha import rankings_with
from rfprm_training.evaluation.evaluated_sets import evaluate_sets
from rfprm_training.evaluation.metrics import pairs_won, picks
from rfprm_training.labelling.step_rewards import fuse
from rfprm_training.learning.config import TrainingConfig, for_another_folder, read_config
from rfprm_training.learning.dataset import has_a_label
from rfprm_training.learning.trainer import Trainer
from rfprm_training.rewarded import (
    RewardedTrajectory,
    known_or_nan,
    known_or_none,
    question_key,
    read_rewarded,
)


@dataclass(frozen=True)
class Variant:
    """What a PRM is trained on."""

    components: tuple[str, ...]
    """Of the step reward, fused; without any, the steps have no labels."""
    trajectory: bool = True
    """Whether the reward of the whole trace is known."""


_ALL = ("alignment", "coherence", "quality")
VARIANTS = {
    "outcome": Variant(()),
    "+ alignment": Variant(("alignment",)),
    "+ coherence": Variant(("coherence",)),
    "+ quality": Variant(("quality",)),
    "+ all three": Variant(_ALL),
    "all three, no trajectory reward": Variant(_ALL, trajectory=False),
}
WEIGHTS = {"steps alone": 0.0, "α = 1": 1.0, "α = 7": 7.0, "trajectory alone": float("inf")}
"""α of the reward that ranks traces: mean step score + α · trajectory score (Eq. 11)."""


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
        content = template.model_dump(mode="json", exclude_none=True)
        content["name"], content["seed"] = f"{template.name}-{folder.name}-{fold}", seed
        content["data"] = {
            "kind": "rewarded",
            "train": [str(labels)],
            "num_folds": num_folds,
            "held_out_fold": fold,
        }
        config = folder / f"fold-{fold}.toml"
        write_whole(config, tomli_w.dumps(content))
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
            "step_auc": one.step_auc,
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


def of_labels(
    rows: Sequence[RewardedTrajectory], right: np.ndarray, groups: Sequence[str]
) -> dict[str, list[float]]:
    """What the labels know by themselves, before any training: the AUC within a question of each
    component and of all fused, as the mean over a trace's known steps."""
    numbers = np.unique(np.array(groups), return_inverse=True)[1]
    labels = {name: [known_or_nan(row.components[name]) for row in rows] for name in _ALL}
    labels["all fused"] = [
        known_or_nan(labelled_as(VARIANTS["+ all three"], row).step_rewards) for row in rows
    ]
    found = {}
    for name, of_rows in labels.items():
        means = np.array([np.mean(known) if (known := _known(of)) else np.nan for of in of_rows])
        # A trace without a label is neither better nor worse than the others.
        means = np.where(np.isnan(means), np.nanmean(means), means)
        table = rankings_with(0.0, means, np.zeros(len(means)), right, numbers)
        found[name] = over_questions(pairs_won, table)
    return found


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not np.isnan(value)]


def rank(
    measured: dict[str, Any], right: np.ndarray, groups: Sequence[str], alpha: float
) -> np.ndarray:
    """What a reward with ``alpha`` makes of each question, [questions, 5]."""
    steps = np.array([np.mean(of_trace) for of_trace in measured["steps"]])
    trajectory = np.array(measured["trajectory"])
    numbers = np.unique(np.array(groups), return_inverse=True)[1]
    return rankings_with(alpha, steps, trajectory, right, numbers)


def auc(rows: np.ndarray) -> float:
    """Within a question, of ``rows`` [questions, seeds, 5]: the mean over seeds."""
    return float(np.mean([pairs_won(rows[:, seed]) for seed in range(rows.shape[1])]))


def gap(rows: np.ndarray) -> float:
    """The share of the gap from a random pick to the best, the mean over seeds."""
    return float(np.mean([picks(rows[:, seed]).gap_recovered for seed in range(rows.shape[1])]))


def step_auc(scores: Sequence[Sequence[float]], quality: Sequence[Sequence[float]]) -> float:
    """How well step scores tell steps of quality above one half from the others, over all traces;
    unknown qualities do not count."""
    labels, values = np.concatenate(quality), np.concatenate(scores)
    known = ~np.isnan(labels)
    return float(metrics.auc(values[known], labels[known] > 0.5))


def summarise(
    runs: dict[str, dict[str, dict[str, Any]]],
    right: np.ndarray,
    groups: Sequence[str],
    quality: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """For each variant and α: AUC within a question and gap recovered, and the AUC's difference
    from ``outcome``, with 95 % intervals over questions; and the means over seeds of the AUC of a
    step and of the figures of the sets."""
    tables = {
        name: {
            kind: np.stack([rank(of_seed[s], right, groups, alpha) for s in sorted(of_seed)], 1)
            for kind, alpha in WEIGHTS.items()
        }
        for name, of_seed in runs.items()
    }
    found: dict[str, Any] = {}
    for name, by_kind in tables.items():
        found[name] = {
            kind: {"auc": over_questions(auc, rows), "gap": over_questions(gap, rows)}
            for kind, rows in by_kind.items()
        }
        others = tables.get("outcome")
        if name != "outcome" and others and set(runs[name]) == set(runs["outcome"]):
            best = others["trajectory alone"]  # its steps were never trained
            for kind, rows in by_kind.items():
                both = np.concatenate([rows, best], axis=2)
                found[name][kind]["over_outcome"] = over_questions(_difference, both)
        aucs = [step_auc(measured["steps"], quality) for measured in runs[name].values()]
        found[name]["step_auc"] = float(np.mean(aucs))
        found[name]["sets"] = _mean_over_seeds([runs[name][s]["sets"] for s in sorted(runs[name])])
    return found


def _difference(both: np.ndarray) -> float:
    return auc(both[:, :, :5]) - auc(both[:, :, 5:])


def _mean_over_seeds(of_seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        spec: {
            figure: None
            if any(one[spec][figure] is None for one in of_seeds)
            else float(np.mean([one[spec][figure] for one in of_seeds]))
            for figure in of_seeds[0][spec]
        }
        for spec in of_seeds[0]
    }


def report(found: dict[str, Any], labels: dict[str, list[float]]) -> None:
    console = Console(width=150, highlight=False)
    known = ", ".join("{} {:.3f} [{:.3f}, {:.3f}]".format(n, *auc) for n, auc in labels.items())
    console.print(f"labels alone, AUC within a question: {known}")
    table = Table(
        title="AUC within a question; the share of the gap recovered", title_justify="left"
    )
    table.add_column("trained on")
    for kind in WEIGHTS:
        table.add_column(kind, justify="right")
    table.add_column("AUC of a step", justify="right")
    for name, figures in found.items():
        cells = [
            "{:.3f} [{:.3f}, {:.3f}]; {:.0%}".format(*figures[kind]["auc"], figures[kind]["gap"][0])
            for kind in WEIGHTS
        ]
        table.add_row(name, *cells, f"{figures['step_auc']:.3f}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    template = for_another_folder(read_config(options.config), options.config.parent)
    all_rows = list(read_rewarded(options.labels))
    rows = usable(all_rows)
    right = np.array([bool(row.trajectory.outcome) for row in rows])
    groups = [question_key(row.trajectory.question) for row in rows]
    told = f"{len(rows):,} of {len(all_rows):,} traces, {right.mean():.0%} right"
    print(f"{told}, of {len(set(groups)):,} questions in {options.folds} folds", flush=True)
    now = {
        "labels": content_of(options.labels),
        "config": template.model_dump(mode="json", exclude={"data"}),
        "folds": options.folds,
        "sets": {spec: content_of(Path(spec.partition(":")[2])) for spec in options.on},
    }
    check_made_alike(options.output, now)

    def make(name: str, seed: int) -> dict[str, Any]:
        folder = options.output / f"{slug(name)}-{seed}"
        labelled = [labelled_as(VARIANTS[name], row) for row in rows]
        scores = train(template, labelled, seed, options.folds, folder)
        return {**scores, "sets": measure_sets(folder / "fold-0", options.on)}

    runs = kept_runs(options.output, options.variants, options.seeds, make)
    quality = [known_or_nan(row.components["quality"]) for row in rows]
    found = summarise(runs, right, groups, quality)
    result = {
        "environment": environment(),
        "made_from": now,
        "seeds": options.seeds,
        "traces": len(rows),
        "questions": len(set(groups)),
        "labels": of_labels(rows, right, groups),
        "variants": found,
    }
    written = write_json("ablation", result, RESULTS if options.keep else options.output)
    report(found, result["labels"])
    print(f"→ {written}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("labels", type=Path, help="of rfprm label, with all components")
    add("--config", type=Path, required=True, help="a training config")
    add("-o", "--output", type=Path, default=Path("runs/ablation"), help="folder of the runs")
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--folds", type=int, default=3, help="of the questions")
    add("--on", nargs="*", default=[], help="labelled sets, FORMAT:PATH")
    add("--keep", action="store_true", help="write the result to experiments/results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
