"""``rfprm calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rfprm_runtime.cli.options import SplitOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rfprm_training.evaluation.alpha import AlphaChoice


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
    split: SplitOption = "blank_lines",
) -> None:
    """Calibrate a checkpoint's scores by temperature, where that helps; export it again after."""
    from rfprm_export.checkpoint import read_checkpoint
    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_runtime.traces.formats import Reading
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
    from rfprm_training.evaluation.set_formats import check_reading
    from rfprm_training.learning.model_card import write_model_card

    if first_error:
        if folds is not None or with_alpha or only is not None or refit:
            raise typer.BadParameter("--first-error goes with --on and --held-out alone")
        if split != "blank_lines":
            raise typer.BadParameter("--split is for outcomes, and --first-error needs step labels")
        _fit_first_error(checkpoint, on or [], held_out=held_out, artifact=artifact)
        return
    check_reading(on or [], Reading(split))
    kinds = KINDS if only is None else (only,)
    if with_alpha and only is not None:
        raise typer.BadParameter("--fit-alpha weighs scores of both kinds; leave out --only")
    if refit:
        check_checkpoint(checkpoint)
    else:
        refuse_calibrated(checkpoint, kinds)
    data = collect_scores(
        checkpoint,
        on or [],
        kinds=kinds,
        folds=folds,
        held_out=held_out,
        artifact=artifact,
        reading=Reading(split),
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
    had_rule = read_checkpoint(checkpoint).first_error is not None
    if had_rule and any(result.kind == "step" and result.helps for result in found):
        typer.echo(
            "the threshold for first errors was fitted for the step scores as they were, and is "
            "dropped; fit it again with --first-error"
        )
    if any(result.helps for result in found) or (alpha is not None and alpha.helps):
        with shown_stages() as told:
            write_calibration(checkpoint, found, alpha, told)
        write_model_card(checkpoint)


def _fit_first_error(
    checkpoint: Path, on: Sequence[str], *, held_out: bool, artifact: Path | None
) -> None:
    from rfprm_export.checkpoint import read_checkpoint
    from rfprm_training.evaluation.calibrate import check_checkpoint, collect_scores, write_rule
    from rfprm_training.evaluation.first_errors import MIN_TRACES, fit_rule, right_and_wrong
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
        right, wrong = right_and_wrong(known.examples, known.scores)
        typer.echo(
            f"nothing fitted: needs {MIN_TRACES} right and {MIN_TRACES} wrong traces whose labels "
            f"tell where they go wrong first, got {right} and {wrong}"
        )
        return
    verdict = "kept" if found.helps else "does not help, left as it was"
    typer.echo(
        f"first error below {found.before.wrong_below:.6g} → {found.chosen.wrong_below:.6g}: F1 "
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
