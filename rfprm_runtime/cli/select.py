"""``rfprm select``: a thin shell over :func:`select_traces`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rfprm_runtime.cli.terminal import (
    DEFAULT_ARTIFACT,
    EXIT_SOME_FAILED,
    SOURCE_HELP,
    read_backend_options,
)
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.scores.aggregation import Aggregation
from rfprm_runtime.selection.rule import LengthControl
from rfprm_runtime.selection.settings import DEFAULT_SHARD_ROWS, Order
from rfprm_runtime.selection.summary import SelectionSummary

try:
    import typer

    from rfprm_runtime.cli.options import (
        AnswerField,
        ArtifactOption,
        BackendOption,
        BackendSettings,
        OverflowOption,
        OverwriteOption,
        PrefixesOption,
        PrefixOption,
        QuestionField,
        SplitOption,
        StepsField,
        TextField,
        ThinkingField,
        ThreadsOption,
        WindowContextOption,
        read_overflow,
    )
except ImportError:
    raise MissingExtraError("typer", "select", "rfprm select") from None


def select(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="JSONL file to write, or Parquet if SOURCE has column types."
        ),
    ],
    artifact: ArtifactOption = DEFAULT_ARTIFACT,
    top: Annotated[int | None, typer.Option(help="Number of traces to keep.")] = None,
    share: Annotated[float | None, typer.Option(help="Fraction of the traces to keep.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Lowest score to keep.")] = None,
    per_question: Annotated[
        int | None, typer.Option(help="Number of traces to keep per question.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Field that names a row's group: source, difficulty, …")
    ] = None,
    top_per_group: Annotated[
        int | None, typer.Option(help="Number of traces to keep per group.")
    ] = None,
    score: Annotated[Aggregation, typer.Option(help="Score to rank by.")] = "reward",
    length_control: Annotated[
        LengthControl,
        typer.Option(help="residual: rank by how far the score exceeds what the length predicts."),
    ] = "none",
    order: Annotated[
        Order, typer.Option(help="Order of the rows in OUTPUT: as in SOURCE, or best first.")
    ] = "input",
    sft: Annotated[bool, typer.Option("--sft", help="Add messages for TRL's SFTTrainer.")] = False,
    report: Annotated[Path | None, typer.Option(help="HTML report to write.")] = None,
    prefix: PrefixOption = "",
    work: Annotated[
        Path | None, typer.Option(help="Folder that keeps the scores; OUTPUT.work by default.")
    ] = None,
    keep_work: Annotated[
        bool, typer.Option(help="Keep the scores, so that another rule needs no model.")
    ] = True,
    split: SplitOption = "blank_lines",
    question_field: QuestionField = None,
    text_field: TextField = None,
    steps_field: StepsField = None,
    thinking_field: ThinkingField = None,
    answer_field: AnswerField = None,
    overflow: OverflowOption = "error",
    window_context: WindowContextOption = None,
    score_prefixes: PrefixesOption = False,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    backend_option: BackendSettings = None,
    shard_rows: Annotated[
        int, typer.Option(help="Number of rows to score and save together.")
    ] = DEFAULT_SHARD_ROWS,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Score in this process, or in Ray workers.")
    ] = "local",
    workers: Annotated[int | None, typer.Option(help="Number of Ray workers.")] = None,
    cpus_per_worker: Annotated[int, typer.Option(help="CPUs for each Ray worker.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(help="GPUs for each Ray worker.")] = 0.0,
    overwrite: OverwriteOption = False,
) -> None:
    """Score a set of traces and keep the best.

    Run the same command again to resume after a stop. Another rule on the same input needs no
    model, but --overwrite for the same OUTPUT. Rows that cannot be scored are listed with
    their numbers in OUTPUT.errors.jsonl; the exit status is then 3.
    """
    from rfprm_runtime.errors import RfprmError
    from rfprm_runtime.ground.whole_files import check_new
    from rfprm_runtime.selection.pipeline import select_traces
    from rfprm_runtime.selection.rule import Selection
    from rfprm_runtime.selection.settings import OutputOptions, RayWorkers, Scoring
    from rfprm_runtime.traces.choosing import FieldNames

    check_new(output, overwrite=overwrite)
    rule = Selection.build(
        top=top,
        share=share,
        threshold=threshold,
        per_question=per_question,
        top_per_group=top_per_group,
        group_by=group_by,
        score=score,
        length_control=length_control,
    )
    if (engine == "ray") != (workers is not None):
        raise RfprmError("--engine ray and --workers N go together; give both or neither")
    summary = select_traces(
        artifact,
        source,
        output,
        rule,
        scoring=Scoring(
            split=split,
            overflow=read_overflow(overflow, window_context),
            backend=backend,
            backend_options=read_backend_options(backend_option, threads),
            shard_rows=shard_rows,
            score_prefixes=score_prefixes,
            names=FieldNames(question_field, text_field, steps_field, thinking_field, answer_field),
        ),
        options=OutputOptions(order, prefix, sft, report, work, keep_work),
        workers=(
            None if workers is None else RayWorkers(workers, cpus_per_worker, gpus_per_worker)
        ),
        show_progress_bar=True,
    )
    _print(summary, source, output, report, keep_work)
    if summary.num_failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print(
    summary: SelectionSummary, source: str, output: Path, report: Path | None, keep_work: bool
) -> None:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, markup=False, style=style)

    if not summary.num_scored + summary.num_failed:
        say(f"{source} is empty: it has no traces to score", "yellow")
    for sentence in summary.tally.sentences():
        say(sentence)
    say(f"{summary.num_chosen:,} of {summary.num_scored:,} scored traces → {output}")
    for outcome, count in summary.outcomes.items():
        if outcome != "chosen":
            say(f"  {count:,} {outcome}")
    if summary.right_scored is not None:
        say(
            f"right, of those whose rows know it: {summary.right_scored} scored traces, "
            f"{summary.right_chosen} chosen ones"
        )
    if keep_work:
        say(
            f"scores of {summary.num_shards} shards ({summary.num_shards_reused} of them from "
            f"before) → {summary.work_path}"
        )
    if report is not None:
        say(f"report → {report}")
    for error in summary.first_errors:
        say(error, "red")
    if summary.num_failed:
        say(f"{summary.num_failed:,} traces could not be scored → {summary.errors_path}")
