"""``rfprm view``: a thin shell over :func:`view_files`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rfprm_runtime.cli.terminal import EXIT_SOME_FAILED
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.whole_files import check_new
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.view.view_files import DEFAULT_LIMIT, view_files

try:
    import typer

    from rfprm_runtime.cli.options import (
        OverwriteOption,
        QuestionField,
        StepsField,
        TextField,
        ThinkingField,
    )
except ImportError:
    raise MissingExtraError("typer", "cli", "rfprm view") from None

_MAX_FIRST_BAD_ROWS = 10


def view(
    scored: Annotated[
        list[Path], typer.Argument(help="JSONL or Parquet files from rfprm score or select.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page to write.")],
    prefix: Annotated[str, typer.Option(help="Prefix of the names of the score fields.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, help="Number of traces to show from the start of each file.")
    ] = DEFAULT_LIMIT,
    question_field: QuestionField = None,
    text_field: TextField = None,
    steps_field: StepsField = None,
    thinking_field: ThinkingField = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Make an HTML page of scored traces.

    The page is one file to sort, filter and read the traces in a browser. It lists rows that cannot
    be shown; the exit status is then 3.
    """
    from rich.console import Console

    check_new(output, overwrite=overwrite)
    names = FieldNames(question_field, text_field, steps_field, thinking_field)
    summary = view_files(scored, output, prefix=prefix, limit=limit, names=names)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"{_count(summary.num_shown, 'trace')} → {output}", markup=False)
    for sentence in summary.tally.sentences():
        console.print(sentence, markup=False)
    for note in summary.notes:
        console.print(note, markup=False, style="yellow")
    for row in summary.bad_rows[:_MAX_FIRST_BAD_ROWS]:
        console.print(f"{row.place}: {row.reason}", markup=False, style="red")
    if summary.num_bad:
        console.print(f"{_count(summary.num_bad, 'row')} cannot be shown; the page lists them")
        raise typer.Exit(EXIT_SOME_FAILED)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
