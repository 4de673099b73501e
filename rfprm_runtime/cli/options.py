"""Options that several commands share. Needs the extra ``cli``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rfprm_runtime.backends.table import backend_names
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.types import Overflow, Windows

ARTIFACT_HELP = "The PRM's artifact: a folder, or org/name[@revision] of the Hub."
ArtifactOption = Annotated[
    str, typer.Option("--artifact", "-a", envvar="RFPRM_ARTIFACT", help=ARTIFACT_HELP)
]


def backend_help() -> str:
    """All backends, as a sentence."""
    *names, last = ["auto", *backend_names()]
    return f"{', '.join(names)} or {last}."


BackendOption = Annotated[str, typer.Option(help=backend_help())]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU cores to use; all by default.")]
BackendSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-option",
        help="NAME=VALUE for the backend, as in Scorer.load (dtype=bfloat16); repeatable.",
    ),
]
SplitOption = Annotated[SplitRule, typer.Option(help="What separates the steps in a text.")]
TooLong = Literal["error", "window"]
OverflowOption = Annotated[
    TooLong,
    typer.Option(help="Traces too long for the model: report an error, or score in windows."),
]
WindowContextOption = Annotated[
    float | None,
    typer.Option(
        help="With --overflow window: the share of the positions, from 0 to below 1, that a step's "
        f"past keeps at least; {Windows().context} by default. Less is faster.",
    ),
]


def read_overflow(overflow: TooLong, window_context: float | None) -> Overflow:
    """What ``--overflow`` and ``--window-context`` ask for together.

    Raises :class:`InvalidArgumentError` for a context without windows, or outside of [0, 1)."""
    if window_context is None:
        return overflow
    if overflow != "window":
        raise InvalidArgumentError(
            f"--window-context {window_context} is for traces scored in windows; add --overflow "
            "window, or leave it out"
        )
    return Windows(window_context)


PrefixesOption = Annotated[
    bool,
    typer.Option(
        "--score-prefixes",
        help="For a reward model of whole sequences: score the trace after each step too.",
    ),
]
DigestOption = Annotated[
    str | None,
    typer.Option(
        "--sha256",
        help="The sha256 that the artifact's prm.json must have, as rfprm info prints it.",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT if it exists.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Number of rows to read.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
PrefixOption = Annotated[str, typer.Option(help="Prefix for the names of the added fields.")]


def _field(what: str) -> Any:
    return typer.Option(metavar="NAME", help=f"Field of {what}; found by its name by default.")


QuestionField = Annotated[str | None, _field("the question")]
TextField = Annotated[str | None, _field("the model's output")]
StepsField = Annotated[str | None, _field("the list of steps")]
ThinkingField = Annotated[str | None, _field("the thinking, if it has its own")]
AnswerField = Annotated[str | None, _field("the reference answer")]
ProgressOption = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress",
        help="Say on stderr what is being done; by default on a terminal.",
        show_default=False,
    ),
]
