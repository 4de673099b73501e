"""``rfprm evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rfprm_runtime.cli.options import (
    AnswerField,
    PrefixesOption,
    QuestionField,
    SplitOption,
    StepsField,
    TextField,
    ThinkingField,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rfprm_training.evaluation.held_out import Evaluation


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A checkpoint, or an artifact: a folder, or org/name[@revision] of the Hub. Leave "
            "it out with --judge."
        ),
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
        str | None,
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
        typer.Option(help="Draw reliability plots of the sets to this PNG, SVG or PDF file."),
    ] = None,
    split: SplitOption = "blank_lines",
    question_field: QuestionField = None,
    text_field: TextField = None,
    steps_field: StepsField = None,
    thinking_field: ThinkingField = None,
    answer_field: AnswerField = None,
) -> None:
    """Measure a PRM on held-out training data or on evaluation sets.

    --split and the options for fields are for the sets of outcomes: rows of any layout.
    """
    from rich.console import Console

    from rfprm_runtime.ground.progress import shown_stages
    from rfprm_runtime.ground.whole_files import write_whole
    from rfprm_runtime.hub.artifacts import find_artifact
    from rfprm_runtime.traces.choosing import FieldNames
    from rfprm_runtime.traces.formats import Reading
    from rfprm_runtime.traces.jsonl import without_infinities
    from rfprm_training import TrainingError
    from rfprm_training.evaluation.evaluated_sets import evaluate_sets
    from rfprm_training.evaluation.plots import plot_reliability
    from rfprm_training.evaluation.printed_sets import print_evaluated_sets
    from rfprm_training.evaluation.printing import print_evaluation
    from rfprm_training.evaluation.set_formats import check_reading
    from rfprm_training.labelling.expert.config import ExpertConfig
    from rfprm_training.learning.model_card import EVALUATION_NAME, write_model_card
    from rfprm_training.toml_config import read_toml

    if (model is None) == (judge is None):
        raise TrainingError("give either a checkpoint or artifact, or an LLM with --judge")
    if judge is not None and score_prefixes:
        raise TrainingError("--score-prefixes is for reward models; an LLM judges each step anyway")
    _check_sets(on, of_llm=judge is not None, against=against, config=config, plot=plot)
    fields = FieldNames(question_field, text_field, steps_field, thinking_field, answer_field)
    reading = Reading(split, names=fields)
    check_reading(on or [], reading)
    files = [path for path in (config, judge) if path is not None]
    prms = [Path(name) for name in (model, against) if name is not None]
    _check_outputs(output, plot, [*files, *_read_by(on or [], prms)])
    if on and output is not None and output.name == EVALUATION_NAME and _is_run(output.parent):
        raise TrainingError(
            f"{output} is for what the training config held out, and the model card reads it; "
            "write the figures of --on to a file with another name"
        )
    # Neither names of sets nor texts of rows are markup.
    console = Console(highlight=False, markup=False, emoji=False)

    def write(figures: dict[str, Any]) -> None:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(without_infinities(figures), indent=2, allow_nan=False)
            write_whole(output, text + "\n")

    if on:
        expert = read_toml(judge, ExpertConfig, "description of an expert LLM") if judge else None
        with shown_stages() as told:
            found = evaluate_sets(
                on,
                model=model,
                judge=expert,
                against=against,
                score_prefixes=score_prefixes,
                reading=reading,
                progress=told,
            )
        write(found.as_dict())
        print_evaluated_sets(console, found)
        if plot is not None:
            plot.parent.mkdir(parents=True, exist_ok=True)
            plot_reliability(found.sets, plot)
        return
    assert model is not None, "a judge has sets"
    evaluation = _evaluate_held_out(find_artifact(model), config, score_prefixes)
    write(evaluation.as_dict())
    print_evaluation(console, evaluation)
    if output is not None and output.name == EVALUATION_NAME:
        write_model_card(output.parent)


def _check_sets(
    on: Sequence[str] | None,
    *,
    of_llm: bool,
    against: str | None,
    config: Path | None,
    plot: Path | None,
) -> None:
    """Raises :class:`TrainingError` for options that need sets, or that need none."""
    from rfprm_training import TrainingError

    if against is not None and (of_llm or not on):
        raise TrainingError("--against compares two PRMs on sets; give a PRM, and sets with --on")
    if on and config is not None:
        raise TrainingError("--config says what was held out, and --on names other sets; give one")
    if plot is not None and not on:
        raise TrainingError("--plot draws evaluation sets; name some with --on")
    if of_llm and not on:
        raise TrainingError("--judge needs evaluation sets; name some with --on")


def _check_outputs(output: Path | None, plot: Path | None, reads: Sequence[Path]) -> None:
    """Before hours of scoring. Raises :class:`RfprmError` for a file that cannot be written, or
    that is read."""
    from rfprm_runtime.errors import OutputError
    from rfprm_runtime.ground.whole_files import check_target
    from rfprm_training.evaluation.plots import check_plot

    for path in (output, plot):
        if path is not None:
            check_target(path, reads=reads)
    if plot is not None:
        check_plot(plot)
        if output is not None and output.absolute() == plot.absolute():
            raise OutputError(f"{plot} is named for the figures and for the plot; name two files")


def _read_by(specs: Sequence[str], prms: Sequence[Path]) -> list[Path]:
    """The files of the sets, and those of PRMs that are here."""
    from rfprm_training.evaluation.set_formats import places_of

    of_sets = [Path(place) for spec in specs for place in places_of(spec)[1]]
    of_prms = [path for folder in prms if folder.is_dir() for path in folder.iterdir()]
    return [*of_sets, *of_prms]


def _is_run(folder: Path) -> bool:
    from rfprm_training.learning.run_folder import CONFIG_NAME

    return (folder / CONFIG_NAME).is_file()


def _evaluate_held_out(model: Path, config: Path | None, score_prefixes: bool) -> Evaluation:
    from rfprm_training import TrainingError
    from rfprm_training.evaluation.held_out import evaluate_scorer, open_scorer
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.run_folder import CONFIG_NAME

    if config is None and not _is_run(model):
        raise TrainingError(
            f"{model} has no {CONFIG_NAME} that says what was held out from its training; name one "
            "with --config, or evaluation sets with --on"
        )
    settings = read_config(config or model / CONFIG_NAME)
    with open_scorer(model, score_prefixes=score_prefixes) as scorer:
        return evaluate_scorer(scorer, settings, show_progress_bar=True)
