"""``rfprm rerank``: a thin shell over :func:`rerank_file`."""

from __future__ import annotations

from typing import Annotated

import typer

from rfprm_runtime.cli.options import (
    AnswerField,
    ArtifactOption,
    BackendOption,
    BackendSettings,
    DigestOption,
    LimitOption,
    OutputOption,
    OverflowOption,
    OverwriteOption,
    PrefixesOption,
    PrefixOption,
    QuestionField,
    QuietOption,
    SplitOption,
    StepsField,
    TextField,
    ThinkingField,
    ThreadsOption,
    WindowContextOption,
    read_overflow,
)
from rfprm_runtime.cli.terminal import (
    DEFAULT_ARTIFACT,
    EXIT_SOME_FAILED,
    SOURCE_HELP,
    read_backend_options,
)
from rfprm_runtime.ranking import Method
from rfprm_runtime.scores.aggregation import Aggregation


def rerank(
    traces: Annotated[str, typer.Argument(help=f"{SOURCE_HELP} - for standard input.")],
    output: OutputOption,
    artifact: ArtifactOption = DEFAULT_ARTIFACT,
    method: Annotated[
        Method, typer.Option(help="Best score first, or the answer with the most votes.")
    ] = "best_of_n",
    score: Annotated[Aggregation, typer.Option(help="Score to rank by.")] = "reward",
    top: Annotated[
        int | None, typer.Option(min=1, help="Candidates to write per question; all by default.")
    ] = None,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    backend_option: BackendSettings = None,
    split: SplitOption = "blank_lines",
    overflow: OverflowOption = "error",
    window_context: WindowContextOption = None,
    score_prefixes: PrefixesOption = False,
    prefix: PrefixOption = "",
    question_field: QuestionField = None,
    text_field: TextField = None,
    steps_field: StepsField = None,
    thinking_field: ThinkingField = None,
    answer_field: AnswerField = None,
    limit: LimitOption = None,
    quiet: QuietOption = False,
    sha256: DigestOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Rank the candidates of every question, best first.

    Rows with the same question are its candidates, and so are all outputs of one row. Every row
    keeps its fields and gets its scores, its final answer and its rank; --top 1 keeps the best one
    of each question. Where rows know the right answer, the share of right picks is printed. Rows
    that cannot be scored are listed with their numbers in OUTPUT.errors.jsonl; the exit status is
    then 3.
    """
    from rfprm_runtime.cli.printing import print_file_summary
    from rfprm_runtime.cli.rerank_file import rerank_file
    from rfprm_runtime.ground.whole_files import check_new
    from rfprm_runtime.scorer import Scorer
    from rfprm_runtime.traces.choosing import FieldNames
    from rfprm_runtime.traces.sources import check_source

    check_source(traces)
    check_new(output, overwrite=overwrite)
    options = read_backend_options(backend_option, threads)
    with Scorer.load(
        artifact, backend=backend, sha256=sha256, score_prefixes=score_prefixes, **options
    ) as scorer:
        summary = rerank_file(
            scorer,
            traces,
            output,
            method=method,
            score=score,
            top=top,
            split=split,
            overflow=read_overflow(overflow, window_context),
            prefix=prefix,
            names=FieldNames(question_field, text_field, steps_field, thinking_field, answer_field),
            limit=limit,
            show_progress_bar=not quiet,
        )
    counts = f"{summary.num_questions:,} questions, {summary.file.num_scored:,} candidates"
    said = [f"{counts} → {output}", *summary.shares.sentences()]
    print_file_summary(summary.file, traces, said, backend=backend, quiet=quiet)
    if summary.file.num_failed:
        raise typer.Exit(EXIT_SOME_FAILED)
