"""``rfprm``: a thin shell over the library. Needs the extra ``cli``.

It finds the commands of other packages (export, train, …) by entry points in the group
``rfprm.commands``, so it imports none of those packages itself.
"""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from rfprm_runtime import __version__
from rfprm_runtime.cli.terminal import (
    DEFAULT_ARTIFACT,
    EXIT_SOME_FAILED,
    SOURCE_HELP,
    read_backend_options,
)
from rfprm_runtime.errors import MissingExtraError, RfprmError

try:
    import typer
    from rich.console import Console
    from rich.markup import escape

    from rfprm_runtime.cli.options import (
        ArtifactOption,
        BackendOption,
        BackendSettings,
        DigestOption,
        OverflowOption,
        OverwriteOption,
        PrefixOption,
        QuestionField,
        SplitOption,
        StepsField,
        TextField,
        ThinkingField,
        ThreadsOption,
    )
except ImportError:
    raise SystemExit(f"rfprm: {MissingExtraError('typer', 'cli', 'the command line')}") from None


app = typer.Typer(
    name="rfprm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rfprm {__version__}")
        raise typer.Exit


@app.callback()
def rfprm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Score reasoning traces with process reward models."""


@app.command()
def score(
    traces: Annotated[str, typer.Argument(help=f"{SOURCE_HELP} - for standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write.")],
    artifact: ArtifactOption = DEFAULT_ARTIFACT,
    backend: BackendOption = "auto",
    threads: ThreadsOption = None,
    backend_option: BackendSettings = None,
    split: SplitOption = "blank_lines",
    overflow: OverflowOption = "error",
    prefix: PrefixOption = "",
    question_field: QuestionField = None,
    text_field: TextField = None,
    steps_field: StepsField = None,
    thinking_field: ThinkingField = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of rows to read.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    sha256: DigestOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Score every trace in a file.

    Every row keeps its fields and gets step_scores, trajectory_score and reward. A row holds a
    question with steps or with a completion, or has another common format; a row of several outputs
    is written once for each. Rows that cannot be scored are listed with their numbers in
    OUTPUT.errors.jsonl; the exit status is then 3.
    """
    from rfprm_runtime.cli.score_file import score_file
    from rfprm_runtime.ground.whole_files import check_new
    from rfprm_runtime.scorer import Scorer
    from rfprm_runtime.traces.choosing import FieldNames
    from rfprm_runtime.traces.sources import check_source

    check_source(traces)
    check_new(output, overwrite=overwrite)
    options = read_backend_options(backend_option, threads)
    if backend == "fake":
        Console(stderr=True).print("backend 'fake' makes its scores up", style="yellow")
    with Scorer.load(artifact, backend=backend, sha256=sha256, **options) as scorer:
        summary = score_file(
            scorer,
            traces,
            output,
            split=split,
            overflow=overflow,
            prefix=prefix,
            names=FieldNames(question_field, text_field, steps_field, thinking_field),
            limit=limit,
            show_progress_bar=not quiet,
        )
    console = Console(stderr=True, soft_wrap=True, highlight=False, quiet=quiet)
    if not summary.num_scored + summary.num_failed:
        console.print(f"{traces} is empty: it has no traces to score", markup=False, style="yellow")
    for sentence in summary.tally.sentences():
        console.print(sentence, markup=False)
    console.print(f"{summary.num_scored} traces scored → {output}", markup=False)
    console.quiet = False
    for error in summary.first_errors:
        console.print(error, markup=False, style="red")
    if summary.num_failed > len(summary.first_errors):
        console.print(f"and {summary.num_failed - len(summary.first_errors)} more", style="red")
    if summary.num_failed:
        console.print(
            f"{summary.num_failed} {summary.unit}s could not be scored → {summary.errors_path}",
            markup=False,
        )
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def info(
    artifact: Annotated[Path, typer.Argument(help="The PRM's artifact folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print prm.json unchanged.")] = False,
) -> None:
    """Print an artifact's manifest."""
    from rfprm_runtime.artifact.manifest import manifest_digest, read_manifest
    from rfprm_runtime.cli.printing import print_manifest

    manifest = read_manifest(artifact)
    if as_json:
        typer.echo(manifest.to_json(), nl=False)
    else:
        print_manifest(Console(highlight=False), manifest, manifest_digest(artifact))


@app.command()
def doctor(
    artifacts: Annotated[
        list[Path] | None, typer.Argument(help="Artifact folders to check besides the usual ones.")
    ] = None,
    check_digests: Annotated[
        bool, typer.Option("--check", help="Compare the sha256 of every artifact file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Print what this installation can do: kernels, backends, extras, artifacts.

    The exit status is 1 if anything installed is broken.
    """
    from rfprm_runtime.cli import doctor as examination
    from rfprm_runtime.cli.printing import print_findings

    findings = examination.examine(artifacts or (), check_digests=check_digests)
    if as_json:
        typer.echo(json.dumps(examination.as_json(findings), indent=2, ensure_ascii=False))
    else:
        print_findings(Console(highlight=False), findings)
    if not examination.is_healthy(findings):
        raise typer.Exit(1)


def _add_commands_of_other_packages() -> None:
    for entry in sorted(entry_points(group="rfprm.commands"), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except ImportError as error:
            app.command(entry.name, **_ACCEPTS_ANYTHING)(_command_that_raises(error))
        except AttributeError as error:  # the metadata is that of another version
            stale = ImportError(
                f"{error}; install rfprm_runtime again, because its list of commands is out of date"
            )
            app.command(entry.name, **_ACCEPTS_ANYTHING)(_command_that_raises(stale))
        else:
            app.command(entry.name)(command)


_ACCEPTS_ANYTHING: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "help_option_names": []},
}


def _command_that_raises(error: ImportError) -> Callable[..., None]:
    """A command that cannot be imported: it says why when called, and in the help."""

    def command(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise error if isinstance(error, RfprmError) else RfprmError(str(error))

    extra = (
        f"pip install 'rfprm_runtime[{error.extra}]'"
        if isinstance(error, MissingExtraError)
        else str(error)
    )
    command.__doc__ = f"(not available: {escape(extra)})"  # [train] is not markup
    return command


def main() -> None:
    """Run the command line."""
    _add_commands_of_other_packages()
    _run(app)


def run_command(module: str, name: str) -> None:
    """Run one command by itself, as the scripts in ``export/`` and ``training/`` do."""

    def run() -> None:
        single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        single.command()(getattr(import_module(module), name))
        single()

    _run(run)


def _run(shell: Callable[[], object]) -> None:
    """Run ``shell``; the library's own errors become one line on stderr and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that cannot print α
    # Exit on SIGTERM (from a cluster or timeout) as on Ctrl-C, so partial files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        shell()
    except (RfprmError, OSError) as error:
        sys.exit(f"rfprm: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
