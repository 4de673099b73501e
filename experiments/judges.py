"""Compares an LLM as a judge of steps, by one or several prompts, with a PRM on the same labels.

python -m experiments.judges experiments/configs/judge.toml --on prmbench:FILE rewarded:FILE \\
    --prompts experiments/configs/prompts/*.md --artifact ARTIFACT

The sets are those of `rfprm evaluate --on`; the server of the config must be running. Answers are
kept (`cache` of the config), so the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.report import write_json
from benchmarks.runner import environment
from experiments import RESULTS
from rfprm_runtime import Scorer, TrajectoryScore
from rfprm_training.evaluation.judged import judge_set
from rfprm_training.evaluation.metrics import (
    Flags,
    Groups,
    Scores,
    auc,
    bootstrap,
    first_error_accuracy,
    rank_correlation,
    within_group_auc,
)
from rfprm_training.evaluation.set_figures import score_set
from rfprm_training.evaluation.set_formats import read_evaluation_set
from rfprm_training.evaluation.step_metrics import cross_fitted_first_error
from rfprm_training.example import Example
from rfprm_training.labelling.expert.config import PROMPT_OF, ExpertConfig
from rfprm_training.toml_config import read_toml

EVEN_ODDS = 0.5

# Of rows [n, 3]: a step's score, its place in the trace, whether the trace has a wrong step.
FIGURES: dict[str, Callable[[Scores, Flags, Groups], float]] = {
    "step_auc": lambda rows, right, _: auc(rows[:, 0], right),
    "step_auc_at_place": lambda rows, right, _: within_group_auc(
        rows[:, 0], right, rows[:, 1].astype(np.int64)
    ),
    # Of traces with a wrong step alone, at the same place.
    "step_auc_in_wrong": lambda rows, right, _: within_group_auc(
        rows[rows[:, 2] > 0, 0], right[rows[:, 2] > 0], rows[rows[:, 2] > 0, 1].astype(np.int64)
    ),
    "rank_correlation": lambda rows, right, _: rank_correlation(
        rows[:, 0], right.astype(np.float64)
    ),
}


def measure(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore | None],
    wrong_below: float | None = None,
) -> dict[str, Any]:
    """Figures of step scores against the labels, with 95 % intervals over questions: of the traces
    that have scores. First errors count one without scores as accepted; their F1 is by thresholds
    that suit the other nine tenths of the questions, at even odds, and by ``wrong_below``."""
    rows, right, groups = _labelled_steps(examples, scores)
    _, numbers = np.unique(groups, return_inverse=True)
    known = [pair for pair in zip(examples, scores, strict=True) if pair[0].knows_first_error]
    steps = [
        np.ones(len(example.step_labels), np.float32) if score is None else score.step_scores
        for example, score in known
    ]
    truth = [example.first_error for example, _ in known]
    fitted, _ = cross_fitted_first_error(steps, truth, [example.group for example, _ in known])
    return {
        "num_traces": len(examples),
        "num_without_scores": sum(score is None for score in scores),
        "num_steps": len(right),
        "num_wrong": int((~right).sum()),
        **{name: _interval(figure, rows, right, numbers) for name, figure in FIGURES.items()},
        "first_error_f1": fitted.f1,
        "first_error_f1_at_half": first_error_accuracy(steps, truth, EVEN_ODDS).f1,
        "first_error_f1_by_rule": None
        if wrong_below is None
        else first_error_accuracy(steps, truth, wrong_below).f1,
    }


def _interval(
    figure: Callable[[Scores, Flags, Groups], float], rows: Scores, right: Flags, groups: Groups
) -> list[float] | None:
    """None where there is no such figure: grades that are all the same correlate with nothing."""
    if np.isnan(figure(rows, right, groups)):
        return None
    found = bootstrap(figure, rows, right, groups)
    return [found.value, found.low, found.high]


def _labelled_steps(
    examples: Sequence[Example], scores: Sequence[TrajectoryScore | None]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.str_]]:
    """Of each labelled step the row of :data:`FIGURES` [n, 3], whether it is right [n], and its
    question [n]."""
    rows = [
        (score.step_scores[place], place, example.has_wrong_step, label >= EVEN_ODDS, example.group)
        for example, score in zip(examples, scores, strict=True)
        if score is not None
        for place, label in enumerate(example.step_labels)
        if label == label
    ]
    values = np.array([row[:3] for row in rows], dtype=np.float64).reshape(-1, 3)
    return values, np.array([row[3] for row in rows], bool), np.array([row[4] for row in rows])


def judged_by(
    config: ExpertConfig, prompts: Sequence[Path], examples: Sequence[Example]
) -> dict[str, Any]:
    """The figures of the config's own prompt and of each of ``prompts``, and what they cost."""
    field = PROMPT_OF[config.grading]
    configs = {"judge": config}
    for path in prompts:
        own = config.model_copy(update={"prompts": {**config.prompts, field: path}})
        configs[f"judge, {path.stem}"] = own
    found: dict[str, Any] = {}
    for name, one in configs.items():
        judged = judge_set(examples, one)
        cost = {"seconds": judged.seconds, "usage": asdict(judged.usage)}
        found[name] = {**measure(examples, judged.scores), **cost, "problems": judged.problems}
    return found


def scored_by(artifact: Path, sets: dict[str, list[Example]]) -> dict[str, Any]:
    """The figures of a PRM on each set, by its own rule for first errors."""
    with Scorer.load(artifact) as scorer:
        rule = scorer.manifest.first_error
        below = None if rule is None else rule.wrong_below
        return {
            spec: measure(examples, score_set(scorer, examples), below)
            for spec, examples in sets.items()
        }


def report(measured: dict[str, Any]) -> None:
    console = Console(width=170, highlight=False)
    for spec, methods in measured["sets"].items():
        first = next(iter(methods.values()))
        table = Table(title=f"{spec}: {first['num_traces']} traces", title_justify="left")
        columns = ("scored by", "of a step: AUC", "same place", "of wrong traces", "correlation")
        for column in (*columns, "first error, F1", "at 0.5", "no scores", "seconds"):
            table.add_column(column, justify="left" if column == "scored by" else "right")
        for name, found in methods.items():
            figures = [found[figure] for figure in FIGURES]
            cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*one) if one else "–" for one in figures]
            seconds = f"{found['seconds']:.0f}" if "seconds" in found else ""
            failed = str(found["num_without_scores"])
            f1 = (f"{found[key]:.3f}" for key in ("first_error_f1", "first_error_f1_at_half"))
            table.add_row(name, *cells, *f1, failed, seconds)
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("judge", type=Path, help="TOML file of an expert LLM")
    parser.add_argument("--on", nargs="+", required=True, metavar="FORMAT:PATH")
    parser.add_argument("--prompts", nargs="*", type=Path, default=[], help="besides its own")
    parser.add_argument("--artifact", type=Path, help="of a PRM to compare with")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--name", default="judges", help="of the result (%(default)s)")
    options = parser.parse_args(arguments)
    config = read_toml(options.judge, ExpertConfig, "description of an expert LLM")
    sets = {spec: read_evaluation_set(spec) for spec in options.on}
    prm = {} if options.artifact is None else scored_by(options.artifact, sets)
    measured = {
        "environment": environment(),
        "model": config.model,
        "grading": config.grading,
        "sets": {
            spec: {
                **({"PRM": prm[spec]} if prm else {}),
                **judged_by(config, options.prompts, examples),
            }
            for spec, examples in sets.items()
        },
    }
    path = write_json(options.name, measured, options.output)
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
