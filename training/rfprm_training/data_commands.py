"""The commands that make training data: thin shells over the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfprm_runtime.parsing import SplitRule

EXIT_STOPPED = 4
"""Labelling stopped before the end, at the budget; the same command goes on."""

SplitOption = Annotated[SplitRule, typer.Option(help="What separates the steps of a text.")]
OverwriteOption = Annotated[bool, typer.Option(help="Replace OUTPUT where it exists.")]


def curate(
    sources: Annotated[
        list[str], typer.Argument(help="JSONL or Parquet files, or hf://NAME[@CONFIG][:SPLIT].")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file with the filters; the defaults if not.")
    ] = None,
    evaluation_set: Annotated[
        list[str] | None,
        typer.Option("--not-in", help="A source whose questions must not be trained on."),
    ] = None,
    split: SplitOption = "blank_lines",
    overwrite: OverwriteOption = False,
) -> None:
    """Keep the traces that are worth labelling; say what was dropped and why."""
    from rich.console import Console

    from rfprm_training.curation.config import CurationConfig, read_curation_config
    from rfprm_training.curation.pipeline import CurationReport
    from rfprm_training.curation.pipeline import curate as run
    from rfprm_training.data_report import print_curation

    settings = CurationConfig() if config is None else read_curation_config(config)
    if evaluation_set:
        sets = (*settings.evaluation_sets, *evaluation_set)
        settings = settings.model_copy(update={"evaluation_sets": sets})
    console = Console(stderr=True, highlight=False)
    with console.status("reading") as status:

        def show(report: CurationReport) -> None:
            status.update(f"{report.num_read:,} read, {report.num_kept:,} kept")

        found = run(sources, output, settings, split=split, overwrite=overwrite, on_progress=show)
    print_curation(Console(highlight=False), found, output)


def label(
    source: Annotated[str, typer.Argument(help="A JSONL or Parquet file, or hf://NAME.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file; the verifier and the outcome if not.")
    ] = None,
    split: SplitOption = "blank_lines",
    overwrite: OverwriteOption = False,
) -> None:
    """Reward every step and the whole of every trajectory; run it again to go on after a stop."""
    from rich.console import Console

    from rfprm_training.data_report import print_labelling
    from rfprm_training.label_config import LabelConfig, read_label_config
    from rfprm_training.labelling import label_file

    settings = LabelConfig() if config is None else read_label_config(config)
    console = Console(stderr=True, highlight=False)
    with console.status("drawing steps to compare with") as status:
        summary = label_file(
            source,
            output,
            settings,
            split=split,
            overwrite=overwrite,
            on_progress=lambda done: status.update(f"{done:,} labelled"),
        )
    print_labelling(Console(highlight=False), summary, output)
    if summary.stopped is not None:
        raise typer.Exit(EXIT_STOPPED)
