"""The commands that training adds to ``rfprm``: thin shells over the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rfprm_training import check_extras

if TYPE_CHECKING:
    from rfprm_training.evaluation.held_out import Evaluation
    from rfprm_training.evaluation.set_figures import SetEvaluation

check_extras()  # the help then says how to get these commands

CacheOption = Annotated[
    Path | None, typer.Option(help="Where activations are kept, to be shared between runs.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def train(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes the run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run's folder; runs/NAME of the config if not."),
    ] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a PRM; run it again to go on where it was stopped."""
    from rfprm_export.verify import record_reference
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.trainer import Trainer

    folder = output or Path("runs") / read_config(config).name
    trainer = Trainer(config, folder, cache=cache, device=device)
    typer.echo(f"{len(trainer.examples)} trajectories, log in {folder / 'train_log.jsonl'}")
    trainer.run()
    if not trainer.is_main_process:
        return
    # Torch is here; where the checkpoint is exported it need not be.
    record_reference(folder)
    typer.echo(f"checkpoint: {folder}")


def cross_validate(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes a run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the folds; runs/NAME-folds if not."),
    ] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Judge a recipe on all real solutions: a PRM for each fold, trained on the others."""
    from rich.console import Console

    from rfprm_training.evaluation.cross_validation import cross_validate as run
    from rfprm_training.evaluation.printing import print_cross_validation
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.model_card import FOLDS_NAME

    folder = output or Path("runs") / f"{read_config(config).name}-folds"
    found = run(config, folder, cache=cache, device=device)
    print_cross_validation(Console(highlight=False), found)
    typer.echo(f"figures: {folder / FOLDS_NAME}")


def evaluate(
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint or an artifact; none with --judge.")
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="FORMAT:PATH, with processbench, prmbench, big_bench_mistake, outcomes or "
            "rewarded. Without it: what the training config held out.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The training config, which says what was held out; the checkpoint's."),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(help="TOML file of an expert LLM (base_url, model, …) to judge instead."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the figures as JSON too.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the reliability of the scores on the sets: PNG, SVG.")
    ] = None,
) -> None:
    """Measure a PRM: on what was held out of its training, or on evaluation sets."""
    import json

    from rich.console import Console

    from rfprm_runtime.ground.whole_files import write_whole
    from rfprm_training import TrainingError
    from rfprm_training.evaluation.printing import plot_reliability, print_evaluation, print_set
    from rfprm_training.learning.model_card import EVALUATION_NAME, write_model_card

    if (model is None) == (judge is None):
        raise TrainingError("give a checkpoint or artifact, or an LLM with --judge: one of both")
    console = Console(highlight=False)
    if on:
        sets = _evaluate_sets(model, judge, on)
        for name, found in sets.items():
            print_set(console, name, found)
        if plot is not None:
            plot_reliability(sets, plot)
        content = {name: found.as_dict() for name, found in sets.items()}
    elif model is None:
        raise TrainingError("an LLM is judged on evaluation sets: name some with --on")
    else:
        evaluation = _evaluate_held_out(model, config)
        print_evaluation(console, evaluation)
        content = evaluation.as_dict()
    if output is not None:
        write_whole(output, json.dumps(content, indent=2) + "\n")
        if model is not None and output.resolve() == (model / EVALUATION_NAME).resolve():
            write_model_card(model)


def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="A training checkpoint.")],
    on: Annotated[
        list[str] | None,
        typer.Option("--on", help="FORMAT:PATH as in evaluate; not what the model is judged on."),
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option(
            help="Folder of rfprm cross-validate with the same config: outcomes, and the scores of "
            "PRMs that were not trained on them, for the trajectory score."
        ),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="Steps of the constructed trajectories that the config held out."
        ),
    ] = False,
) -> None:
    """Fit the temperature of a checkpoint's scores; keep it where it helps, then export again."""
    from rfprm_export.verify import record_reference
    from rfprm_training.evaluation.calibrate import (
        collect_scores,
        fit_calibration,
        refuse_calibrated,
        write_calibration,
    )

    refuse_calibrated(checkpoint)
    data = collect_scores(checkpoint, on or [], folds=folds, held_out=held_out)
    found = [
        result
        for kind, known in data.items()
        if (
            result := fit_calibration(
                kind, known.examples, known.scores, fitted_on=", ".join(known.sources)
            )
        )
        is not None
    ]
    for result in found:
        verdict = "kept" if result.helps else "no help, left out"
        typer.echo(
            f"{result.kind} scores: temperature {result.fitted.temperature:.3f}, bias "
            f"{result.fitted.bias:+.3f}; ECE {result.ece_before:.3f} → {result.ece_after:.3f} "
            f"({result.num_scores} scores, cross-fitted by question): {verdict}"
        )
    if not found:
        typer.echo("nothing to fit: fewer than 100 labels, or scores that do not follow them")
    if any(result.helps for result in found):
        write_calibration(checkpoint, found)
        record_reference(checkpoint)


def _evaluate_held_out(model: Path, config: Path | None) -> Evaluation:
    from rfprm_training.evaluation.held_out import evaluate_scorer, open_scorer
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.run_folder import CONFIG_NAME

    settings = read_config(config or model / CONFIG_NAME)
    with open_scorer(model) as scorer:
        return evaluate_scorer(scorer, settings, show_progress_bar=True)


def _evaluate_sets(
    model: Path | None, judge: Path | None, specs: list[str]
) -> dict[str, SetEvaluation]:
    """Every set is read before anything is scored: a wrong path must not cost an hour."""
    from rfprm_training.evaluation.held_out import open_scorer
    from rfprm_training.evaluation.set_figures import judge_set, score_set, summarise_set
    from rfprm_training.evaluation.set_formats import read_evaluation_set
    from rfprm_training.labelling.expert.config import ExpertConfig
    from rfprm_training.settings import read_toml

    sets = {spec: read_evaluation_set(spec) for spec in specs}
    if model is None:
        assert judge is not None
        expert = read_toml(judge, ExpertConfig, "description of an expert LLM")
        return {spec: summarise_set(e, judge_set(e, expert)) for spec, e in sets.items()}
    with open_scorer(model) as scorer:
        return {spec: summarise_set(e, score_set(scorer, e)) for spec, e in sets.items()}
