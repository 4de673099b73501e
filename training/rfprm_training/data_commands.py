"""The commands that make training data: thin wrappers over the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfprm_runtime.cli.options import OverwriteOption, ProgressOption, SplitOption
from rfprm_runtime.cli.terminal import HUB_SPELLING
from rfprm_runtime.ground.whole_files import check_target, errors_path_of

EXIT_STOPPED = 4
"""Labelling stopped at the budget; the same command resumes it."""


def curate(
    sources: Annotated[
        list[str], typer.Argument(help=f"JSONL or Parquet files, or {HUB_SPELLING}.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML file with filter settings.")] = None,
    evaluation_set: Annotated[
        list[str] | None,
        typer.Option(
            "--not-in", help="An evaluation set, whose questions are dropped; repeatable."
        ),
    ] = None,
    split: SplitOption = "blank_lines",
    overwrite: OverwriteOption = False,
) -> None:
    """Keep the traces worth labelling; report what was dropped and why."""
    from rich.console import Console

    from rfprm_training.curation.config import CurationConfig, read_curation_config
    from rfprm_training.curation.pipeline import CurationReport
    from rfprm_training.curation.pipeline import curate as run
    from rfprm_training.data_printing import print_curation

    if config is not None:
        check_target(output, reads=[config])
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
        Path | None,
        typer.Option(
            help="TOML file. By default a step's reward combines alignment and coherence (an "
            "encoder) with quality (the verifier); the trajectory's reward is its outcome."
        ),
    ] = None,
    split: SplitOption = "blank_lines",
    overwrite: OverwriteOption = False,
) -> None:
    """Reward every step and every trajectory as a whole; run it again to resume."""
    from rich.console import Console

    from rfprm_training.data_printing import print_labelling
    from rfprm_training.labelling.config import LabelConfig, read_label_config
    from rfprm_training.labelling.label_file import label_file

    if config is not None:
        check_target(output, reads=[config])
    settings = LabelConfig() if config is None else read_label_config(config)
    console = Console(stderr=True, highlight=False)
    with console.status("sampling steps to compare with") as status:
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


def sample(
    gold: Annotated[Path, typer.Argument(help="GSM8K's train.jsonl, or a file in its format.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    config: Annotated[Path, typer.Option(help="TOML file with the model and how much to sample.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    overwrite: OverwriteOption = False,
) -> None:
    """Sample next steps from a small model after right beginnings; run it again to resume."""
    from collections.abc import Sequence

    from rfprm_training import TrainingError, check_extras

    check_extras()
    import torch
    from rich.console import Console

    from rfprm_training.base_content import base_content
    from rfprm_training.construction.sampling.line_sampler import LineSampler
    from rfprm_training.construction.sampling.next_steps import Sampler, SamplingConfig, sample_file
    from rfprm_training.gsm8k import read_gold_solutions
    from rfprm_training.toml_config import read_toml

    check_target(output, reads=[gold, config])
    settings = read_toml(config, SamplingConfig, "sampling config")
    content = base_content(settings.base, config.parent)

    def open_sampler(preamble: str) -> Sampler:
        model = LineSampler(settings.base, config.parent, preamble, device=device)
        if base_content(settings.base, config.parent) != content:
            raise TrainingError("the base model changed while it was loaded; run it again")

        def draw(texts: Sequence[str], seed: int) -> list[list[str]]:
            found = model.sample(
                texts,
                count=settings.samples_per_place,
                temperature=settings.temperature,
                max_tokens=settings.max_step_tokens,
                generator=torch.Generator().manual_seed(seed),
            )
            return [[line.text for line in lines if line.is_whole] for lines in found]

        return draw

    console = Console(stderr=True, highlight=False)
    with console.status("loading the model") as status:
        count = sample_file(
            read_gold_solutions(gold),
            output,
            settings,
            open_sampler,
            source=gold.name,
            model={"content": content, "device": torch.device(device).type},
            overwrite=overwrite,
            on_progress=lambda done, total: status.update(f"{done:,} of {total:,} beginnings"),
        )
    typer.echo(f"{count:,} beginnings with sampled next steps → {output}")


def solve(
    source: Annotated[
        str, typer.Argument(help=f"Questions, with or without answers: a file, or {HUB_SPELLING}.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    config: Annotated[
        Path, typer.Option(help="TOML file with the server, the model and how much to sample.")
    ],
    overwrite: OverwriteOption = False,
    progress: ProgressOption = None,
) -> None:
    """Sample solutions from an LLM behind a server, with their outcomes; run it again to resume."""
    from rfprm_runtime.ground.progress import shown_stages, stage
    from rfprm_training.construction.sampling.solutions import (
        SolvingConfig,
        read_problems,
        solve_file,
    )
    from rfprm_training.toml_config import read_toml

    check_target(output, reads=[config, Path(source)])
    settings = read_toml(config, SolvingConfig, "solving config")
    problems = read_problems(source, settings)
    with shown_stages(progress) as told:
        found = solve_file(
            problems,
            output,
            settings,
            overwrite=overwrite,
            on_progress=stage(told, "solving, solution"),
        )
    questions = "1 question" if len(problems) == 1 else f"{len(problems):,} questions"
    text = f"{found.num_solutions:,} solutions to {questions}"
    if found.num_judged:
        text += f", {found.num_right / found.num_judged:.1%} of {found.num_judged:,} right"
    if found.num_failed:
        text += f"; {found.num_failed:,} requests failed, see {errors_path_of(output)}"
    typer.echo(f"{text} → {output}")


def fetch_data(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "data"
    ),
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A folder to copy them from instead of downloading them."),
    ] = None,
) -> None:
    """Download GSM8K's files, which the shipped configs train on; checks their sha256."""
    from rfprm_training.fetch_data import fetch_data as run

    for file, is_new in run(output, source=source):
        state = "written" if is_new else "already there"
        typer.echo(f"{output / file.name}: {state}, {file.fields}")
