"""The commands that training adds to ``rfprm``: thin shells over the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="The TOML file that describes the run.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run's folder; runs/NAME of the config if not."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where activations are kept, to be shared between runs."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a PRM; run it again to go on where it was stopped."""
    from rfprm_export.verify import record_reference
    from rfprm_training.config import read_config
    from rfprm_training.trainer import Trainer

    folder = output or Path("runs") / read_config(config).name
    trainer = Trainer(config, folder, cache=cache, device=device)
    typer.echo(f"{len(trainer.examples)} trajectories, log in {folder / 'train_log.jsonl'}")
    trainer.run()
    if not trainer.is_main_process:
        return
    # Torch is here; where the checkpoint is exported it need not be.
    record_reference(folder)
    typer.echo(f"checkpoint: {folder}")


def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint or an artifact.")],
    config: Annotated[
        Path | None,
        typer.Option(help="The training config, which says what was held out; the checkpoint's."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the figures as JSON too.")
    ] = None,
) -> None:
    """Measure a PRM on the questions that were held out of its training."""
    import json

    from rich.console import Console

    from rfprm_training.config import read_config
    from rfprm_training.evaluation import evaluate_scorer, open_scorer
    from rfprm_training.evaluation_report import print_evaluation
    from rfprm_training.model_card import EVALUATION_NAME, write_model_card
    from rfprm_training.run_folder import CONFIG_NAME

    settings = read_config(config or model / CONFIG_NAME)
    with open_scorer(model) as scorer:
        evaluation = evaluate_scorer(scorer, settings, show_progress_bar=True)
    print_evaluation(Console(highlight=False), evaluation)
    if output is not None:
        partial = output.with_name(f".{output.name}.partial")
        partial.write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n", encoding="utf-8")
        partial.replace(output)
        if output.resolve() == (model / EVALUATION_NAME).resolve():
            write_model_card(model)
