"""``rfprm train`` and ``rfprm cross-validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfprm_runtime.cli.options import ProgressOption

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
