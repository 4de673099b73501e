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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.runner import environment
from experiments.ablation_figures import STEP_FIGURES, WEIGHTS, of_labels, summarise
from experiments.ablation_runs import VARIANTS, labelled_as, measure_sets, train, usable
from experiments.kept import (
    add_result_options,
    check_made_alike,
    kept_runs,
    slug,
    write_result,
)
from rfprm_runtime.ground.content import content_of
from rfprm_training.learning.config import for_another_folder, read_config
from rfprm_training.rewarded import question_key, read_rewarded


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
    table.add_column("AUC of a step at one place; in wrong traces", justify="right")
    for name, figures in found.items():
        cells = [
            "{:.3f} [{:.3f}, {:.3f}]; {:.0%}".format(*figures[kind]["auc"], figures[kind]["gap"][0])
            for kind in WEIGHTS
        ]
        steps = (f"{one[0]:.3f}" if (one := figures[key]) else "–" for key in STEP_FIGURES)
        table.add_row(name, *cells, "; ".join(steps))
    console.print(table)
    for name, figures in found.items():
        by_seed = figures["trajectory alone"]["auc_by_seed"]
        if len(by_seed) > 1:
            told = ", ".join(f"{one:.3f}" for one in by_seed)
            console.print(f"{name}: AUC of the trajectory score by seed {told}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    template = for_another_folder(read_config(options.config), options.config.parent)
    all_rows = list(read_rewarded(options.labels))
    rows = usable(all_rows)
    right = np.array([bool(row.trajectory.outcome) for row in rows])
    keys = [question_key(row.trajectory.question) for row in rows]
    questions = np.unique(np.array(keys), return_inverse=True)[1]
    told = f"{len(rows):,} of {len(all_rows):,} traces, {right.mean():.0%} right"
    print(f"{told}, of {len(set(keys)):,} questions in {options.folds} folds", flush=True)
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
    graded = [labelled_as(VARIANTS["+ quality"], row).as_example() for row in rows]
    found = summarise(runs, right, questions, graded)
    result = {
        "environment": environment(),
        "made_from": now,
        "seeds": options.seeds,
        "traces": len(rows),
        "questions": len(set(keys)),
        "labels": of_labels(rows, right, questions),
        "variants": found,
    }
    written = write_result(options, result)
    report(found, result["labels"])
    print(f"→ {written}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("labels", type=Path, help="of rfprm label, with all components")
    add("--config", type=Path, required=True, help="a training config")
    add("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--folds", type=int, default=3, help="of the questions")
    add("--on", nargs="*", default=[], help="labelled sets, FORMAT:PATH")
    add_result_options(parser, "ablation")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
