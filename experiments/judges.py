"""Compares an LLM as a judge of steps, by one or several prompts, with a PRM on the same labels.

python -m experiments.judges experiments/configs/judge.toml --on prmbench:FILE rewarded:FILE \\
    --prompts experiments/configs/prompts/*.md --artifact ARTIFACT

The sets are those of `rfprm evaluate --on`; the server of the config must be running. Answers are
kept (`cache` of the config), so the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.runner import environment
from experiments.kept import add_result_options, write_result
from rfprm_runtime import Scorer, TrajectoryScore
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_training.evaluation.judged import judge_set
from rfprm_training.evaluation.labelled_steps import FIGURES, LabelledSteps
from rfprm_training.evaluation.metrics import FirstError
from rfprm_training.evaluation.set_figures import score_set, summarise_set
from rfprm_training.evaluation.set_formats import read_evaluation_set
from rfprm_training.example import Example
from rfprm_training.labelling.expert.config import PROMPT_OF, ExpertConfig
from rfprm_training.toml_config import read_toml


def measure(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore | None],
    manifest: Manifest | None = None,
) -> dict[str, Any]:
    """Figures of step scores against the labels, with 95 % intervals over questions: of the traces
    that have scores. First errors are those of `rfprm evaluate`, which counts a trace without
    scores as accepted."""
    steps = LabelledSteps.of(
        (example, score.step_scores)
        for example, score in zip(examples, scores, strict=True)
        if score is not None
    )
    found = summarise_set(examples, scores, manifest)
    return {
        "num_traces": found.num_trajectories,
        "num_without_scores": found.num_failed,
        "num_steps": len(steps),
        "num_wrong": int((~steps.right).sum()),
        **{name: (one := figure(steps)) and one.with_ends for name, figure in FIGURES.items()},
        "first_error_f1": _f1(found.first_error),
        "first_error_f1_at_half": _f1(found.first_error_at_half),
        "first_error_f1_by_rule": _f1(found.first_error_by_rule),
    }


def _f1(found: FirstError | None) -> float | None:
    return None if found is None else found.f1


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
        return {
            spec: measure(examples, score_set(scorer, examples), scorer.manifest)
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
            f1 = (found[key] for key in ("first_error_f1", "first_error_f1_at_half"))
            located = ("–" if one is None else f"{one:.3f}" for one in f1)
            table.add_row(name, *cells, *located, failed, seconds)
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("judge", type=Path, help="TOML file of an expert LLM")
    parser.add_argument("--on", nargs="+", required=True, metavar="FORMAT:PATH")
    parser.add_argument("--prompts", nargs="*", type=Path, default=[], help="besides its own")
    parser.add_argument("--artifact", type=Path, help="of a PRM to compare with")
    add_result_options(parser, "judges")
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
    path = write_result(options, measured)
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
