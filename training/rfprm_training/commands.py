"""The training commands of ``rfprm``: thin wrappers over the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rfprm_runtime.cli.options import PrefixesOption, ProgressOption
from rfprm_training import check_extras

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rfprm_training.evaluation.alpha import AlphaChoice
    from rfprm_training.evaluation.held_out import Evaluation

check_extras()  # without them, the help says how to get these commands

CacheOption = Annotated[
    Path | None, typer.Option(help="A folder for activations, which several runs can share.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def train(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes the run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run's folder; runs/NAME by default."),
    ] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
    reference: Annotated[
        bool,
        typer.Option(
            "--reference/--no-reference",
            help="Record the torch network's scores of the traces that exports are verified on, so "
            "that an export needs no torch. `rfprm calibrate` records them anew: leave them out if "
            "it comes next.",
        ),
    ] = True,
    progress: ProgressOption = None,
) -> None:
    """Train a PRM; run it again to resume."""
    from rfprm_export.named_base import base_of_config
    from rfprm_export.reference import has_reference, record_reference
    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.run_folder import FinishedRunError
    from rfprm_training.learning.trainer import Trainer

    settings = read_config(config)
    folder = output or Path("runs") / settings.name
    base = base_of_config(settings.base, config.parent)
    try:
        trainer = Trainer(config, folder, cache=cache, device=device)
    except FinishedRunError:
        if not reference or has_reference(folder):
            raise
        with shown_stages(progress) as told:
            record_reference(folder, base=base, progress=told)  # a kill came between
        typer.echo(f"checkpoint: {folder}")
        return
    typer.echo(f"{len(trainer.examples)} trajectories, log in {folder / 'train_log.jsonl'}")
    with shown_stages(progress if trainer.is_main_process else False) as told:
        trainer.run(progress=told)
        if not trainer.is_main_process:
            return
        if reference:
            record_reference(folder, base=base, progress=told)
    typer.echo(f"checkpoint: {folder}")


def cross_validate(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes a run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the folds; runs/NAME-folds by default."),
    ] = None,
    cache: CacheOption = None,
    device: DeviceOption = "auto",
    progress: ProgressOption = None,
) -> None:
    """Evaluate a recipe on all real solutions: for each fold, train a PRM on the other folds."""
    from rich.console import Console

    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_training.evaluation.cross_validation import cross_validate as run
    from rfprm_training.evaluation.printing import print_cross_validation
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.model_card import FOLDS_NAME

    folder = output or Path("runs") / f"{read_config(config).name}-folds"
    with shown_stages(progress) as told:
        found = run(config, folder, cache=cache, device=device, progress=told)
    print_cross_validation(Console(highlight=False), found)
    typer.echo(f"figures: {folder / FOLDS_NAME}")


def evaluate(
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint or an artifact; leave it out with --judge.")
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="FORMAT:PATH, with processbench, prmbench, big_bench_mistake, outcomes or "
            "rewarded; repeatable. processbench or prmbench alone is read from the Hub. By "
            "default, what the training config held out.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Another checkpoint or artifact, such as the same PRM in another precision: also "
            "count the first errors, picks and selections that change."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The training config, which defines what was held out; by default the "
            "checkpoint's."
        ),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of an expert LLM (base_url, model, …) to measure instead of a PRM."
        ),
    ] = None,
    score_prefixes: PrefixesOption = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the figures to this JSON file."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw reliability plots of the sets to this PNG or SVG file."),
    ] = None,
) -> None:
    """Measure a PRM on held-out training data or on evaluation sets."""
    import json

    from rich.console import Console

    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_runtime.ground.whole_files import write_whole
    from rfprm_training import TrainingError
    from rfprm_training.evaluation.evaluated_sets import evaluate_sets
    from rfprm_training.evaluation.printing import (
        plot_reliability,
        print_evaluated_sets,
        print_evaluation,
    )
    from rfprm_training.labelling.expert.config import ExpertConfig
    from rfprm_training.learning.model_card import EVALUATION_NAME, write_model_card
    from rfprm_training.toml_config import read_toml

    if (model is None) == (judge is None):
        raise TrainingError("give either a checkpoint or artifact, or an LLM with --judge")
    if against is not None and (model is None or not on):
        raise TrainingError("--against compares two PRMs on sets; give a PRM, and sets with --on")
    if judge is not None and score_prefixes:
        raise TrainingError("--score-prefixes is for reward models; an LLM judges each step anyway")
    if on and config is not None:
        raise TrainingError("--config says what was held out, and --on names other sets; give one")
    if plot is not None and not on:
        raise TrainingError("--plot draws evaluation sets; name some with --on")
    console = Console(highlight=False)
    if on:
        expert = read_toml(judge, ExpertConfig, "description of an expert LLM") if judge else None
        with shown_stages() as told:
            found = evaluate_sets(
                on,
                model=model,
                judge=expert,
                against=against,
                score_prefixes=score_prefixes,
                progress=told,
            )
        print_evaluated_sets(console, found)
        if plot is not None:
            plot_reliability(found.sets, plot)
        content = found.as_dict()
    elif model is None:
        raise TrainingError("--judge needs evaluation sets; name some with --on")
    else:
        evaluation = _evaluate_held_out(model, config, score_prefixes)
        print_evaluation(console, evaluation)
        content = evaluation.as_dict()
    if output is not None:
        write_whole(output, json.dumps(content, indent=2) + "\n")
        if output.name == EVALUATION_NAME:
            write_model_card(output.parent)


def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="A training checkpoint.")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="FORMAT:PATH, as for evaluate; not data that the PRM will be measured on.",
        ),
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option(
            help="Output folder of rfprm cross-validate with the same config, whose scores come "
            "from PRMs that were not trained on the solution; fits the trajectory score."
        ),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            help="Fit the step score on the constructed trajectories that the config held out.",
        ),
    ] = False,
    only: Annotated[
        Literal["step", "trajectory"] | None,
        typer.Option(help="Calibrate scores of one kind, and leave the other as it is."),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Fit scores again that are calibrated already; kept where that is better on the "
            "data given now.",
        ),
    ] = False,
    with_alpha: Annotated[
        bool,
        typer.Option(
            "--fit-alpha",
            help="Then choose α, the weight of the trajectory score in the reward, by how well the "
            "reward ranks the solutions of --folds and --on.",
        ),
    ] = False,
    first_error: Annotated[
        bool,
        typer.Option(
            "--first-error",
            help="Instead, after a calibration: fit the threshold by which step scores tell where "
            "a trace goes wrong first, on traces of --on and --held-out whose steps are labelled.",
        ),
    ] = False,
    artifact: Annotated[
        Path | None,
        typer.Option(help="An export of the checkpoint to score with, which is faster than torch."),
    ] = None,
) -> None:
    """Calibrate a checkpoint's scores by temperature, where that helps; export it again after."""
    from rfprm_export.checkpoint import read_checkpoint
    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_training.evaluation.calibrate import (
        KINDS,
        check_checkpoint,
        collect_scores,
        fit_alpha,
        fit_calibration,
        one_after,
        refuse_calibrated,
        write_calibration,
    )
    from rfprm_training.learning.model_card import write_model_card

    if first_error:
        if folds is not None or with_alpha or only is not None or refit:
            raise typer.BadParameter("--first-error goes with --on and --held-out alone")
        _fit_first_error(checkpoint, on or [], held_out=held_out, artifact=artifact)
        return
    kinds = KINDS if only is None else (only,)
    if with_alpha and only is not None:
        raise typer.BadParameter("--fit-alpha weighs scores of both kinds; leave out --only")
    if refit:
        check_checkpoint(checkpoint)
    else:
        refuse_calibrated(checkpoint, kinds)
    data = collect_scores(
        checkpoint, on or [], kinds=kinds, folds=folds, held_out=held_out, artifact=artifact
    )
    found = [
        result
        for kind, known in data.items()
        if (
            result := fit_calibration(
                kind,
                known.examples,
                known.scores,
                fitted_on=", ".join(known.sources),
                readout=known.readout,
            )
        )
        is not None
    ]
    for result in found:
        verdict = "kept" if result.helps else "does not help, discarded"
        readout = data[result.kind].readout
        whole = one_after(None if readout is None else readout.calibration, result.fitted)
        typer.echo(
            f"{result.kind} scores: temperature {whole.temperature:.3f}, bias "
            f"{whole.bias:+.3f}; ECE {result.ece_before:.3f} → {result.ece_after:.3f} "
            f"({result.num_scores} scores, cross-fitted by question): {verdict}"
        )
    if not found:
        typer.echo(
            "nothing fitted: fewer than 100 scores with labels, or they do not rise with the labels"
        )
    alpha = None
    if with_alpha:
        alpha = fit_alpha(data, found, before=read_checkpoint(checkpoint).alpha)
        typer.echo(_said_of_alpha(alpha))
    if any(result.helps for result in found) or (alpha is not None and alpha.helps):
        with shown_stages() as told:
            write_calibration(checkpoint, found, alpha, told)
        write_model_card(checkpoint)


def _fit_first_error(
    checkpoint: Path, on: Sequence[str], *, held_out: bool, artifact: Path | None
) -> None:
    from rfprm_export.checkpoint import read_checkpoint
    from rfprm_training.evaluation.calibrate import check_checkpoint, collect_scores, write_rule
    from rfprm_training.evaluation.first_errors import fit_rule
    from rfprm_training.learning.model_card import write_model_card

    check_checkpoint(checkpoint)
    known = collect_scores(checkpoint, on, held_out=held_out, artifact=artifact)["step"]
    found = fit_rule(
        known.examples,
        known.scores,
        fitted_on=", ".join(known.sources),
        readout=known.readout,
        before=read_checkpoint(checkpoint).first_error,
    )
    if found is None:
        typer.echo("nothing fitted: fewer than 50 traces with labelled steps are right, or wrong")
        return
    verdict = "kept" if found.helps else "does not help, left as it was"
    typer.echo(
        f"first error below {found.before.wrong_below:.3f} → {found.chosen.wrong_below:.3f}: F1 "
        f"{found.found_before.f1:.3f} → {found.found_after.f1:.3f} ({found.num_traces} traces, "
        f"cross-fitted by question): {verdict}"
    )
    if found.helps:
        write_rule(checkpoint, found.chosen)
        write_model_card(checkpoint)


def _said_of_alpha(found: AlphaChoice | None) -> str:
    if found is None:
        return (
            "α not fitted: fewer than 50 questions have right and wrong solutions with step and "
            "trajectory scores"
        )
    verdict = "kept" if found.helps else "does not help, left as it was"
    return (
        f"α {found.before:g} → {found.chosen:g}: AUC within a question {found.auc_before:.3f} → "
        f"{found.auc_after:.3f}, Best-of-N gap recovered {found.gap_before:.3f} → "
        f"{found.gap_after:.3f} ({found.num_questions} questions, cross-fitted): {verdict}"
    )


def _evaluate_held_out(model: Path, config: Path | None, score_prefixes: bool) -> Evaluation:
    from rfprm_training.evaluation.held_out import evaluate_scorer, open_scorer
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.run_folder import CONFIG_NAME

    settings = read_config(config or model / CONFIG_NAME)
    with open_scorer(model, score_prefixes=score_prefixes) as scorer:
        return evaluate_scorer(scorer, settings, show_progress_bar=True)
