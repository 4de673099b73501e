"""``rfprm score``: a thin shell over :func:`score_file`."""

from __future__ import annotations

from typing import Annotated

import typer

from rfprm_runtime.cli.options import (
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


def score(
    traces: Annotated[str, typer.Argument(help=f"{SOURCE_HELP} - for standard input.")],
    output: OutputOption,
    artifact: ArtifactOption = DEFAULT_ARTIFACT,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    backend_option: BackendSettings = None,
    split: SplitOption = "blank_lines",
    overflow: OverflowOption = "error",
    window_context: WindowContextOption = None,
    score_prefixes: PrefixesOption = False,
    first_error: Annotated[
        bool,
        typer.Option(
            "--first-error",
            help="Also write first_error: the step, from 0, where the trace goes wrong first; "
            "null for a trace that is taken for right.",
        ),
    ] = False,
    prefix: PrefixOption = "",
    question_field: QuestionField = None,
    text_field: TextField = None,
    steps_field: StepsField = None,
    thinking_field: ThinkingField = None,
    limit: LimitOption = None,
    quiet: QuietOption = False,
    sha256: DigestOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Score every trace in a file.

    Every row keeps its fields and gets step_scores, trajectory_score and reward. A row holds a
    question with steps or with a completion, or has another common format; a row of several outputs
    is written once for each. Rows that cannot be scored are listed with their numbers in
    OUTPUT.errors.jsonl; the exit status is then 3.
    """
    from rfprm_runtime.cli.printing import print_file_summary
    from rfprm_runtime.cli.score_file import score_file
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
        summary = score_file(
            scorer,
            traces,
            output,
            split=split,
            overflow=read_overflow(overflow, window_context),
            prefix=prefix,
            names=FieldNames(question_field, text_field, steps_field, thinking_field),
            limit=limit,
            first_error=first_error,
            show_progress_bar=not quiet,
        )
    said = [f"{summary.num_scored} traces scored → {output}"]
    print_file_summary(summary, traces, said, backend=backend, quiet=quiet)
    if summary.num_failed:
        raise typer.Exit(EXIT_SOME_FAILED)
