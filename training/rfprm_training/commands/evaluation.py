"""``rfprm evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rfprm_runtime.cli.options import PrefixesOption

if TYPE_CHECKING:
    from rfprm_training.evaluation.held_out import Evaluation


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


def _evaluate_held_out(model: Path, config: Path | None, score_prefixes: bool) -> Evaluation:
    from rfprm_training.evaluation.held_out import evaluate_scorer, open_scorer
    from rfprm_training.learning.config import read_config
    from rfprm_training.learning.run_folder import CONFIG_NAME

    settings = read_config(config or model / CONFIG_NAME)
    with open_scorer(model, score_prefixes=score_prefixes) as scorer:
        return evaluate_scorer(scorer, settings, show_progress_bar=True)
