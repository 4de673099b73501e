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
from rfprm_runtime.errors import MissingExtraError, RfprmError

try:
    import typer
    from rich.console import Console

    from rfprm_runtime.cli.options import ARTIFACT_HELP
    from rfprm_runtime.cli.rerank import rerank
    from rfprm_runtime.cli.score import score
except ImportError:
    raise SystemExit(f"rfprm: {MissingExtraError('typer', 'cli', 'the command line')}") from None


def _shell(**options: Any) -> typer.Typer:
    # Rich's tables would cut the names of options in a terminal of 80 columns.
    return typer.Typer(
        rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **options
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rfprm {__version__}")
        raise typer.Exit


def rfprm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Score reasoning traces with process reward models."""


def info(
    artifact: Annotated[str, typer.Argument(help=ARTIFACT_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print prm.json unchanged.")] = False,
) -> None:
    """Print an artifact's manifest."""
    from rfprm_runtime.artifact.manifest import manifest_digest, read_manifest
    from rfprm_runtime.cli.printing import print_manifest
    from rfprm_runtime.hub.artifacts import find_artifact

    folder = find_artifact(artifact)
    manifest = read_manifest(folder)
    if as_json:
        typer.echo(manifest.to_json(), nl=False)
    else:
        print_manifest(Console(highlight=False), manifest, manifest_digest(folder))


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


def own_commands() -> typer.Typer:
    """``rfprm`` with the commands of the runtime alone."""
    app = _shell(name="rfprm", no_args_is_help=True)
    app.callback()(rfprm)
    for command in (score, rerank, info, doctor):
        app.command()(command)
    return app


def all_commands() -> typer.Typer:
    """``rfprm`` with the commands of the other packages too."""
    app = own_commands()
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
    return app


_ACCEPTS_ANYTHING: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "help_option_names": []},
}


def _command_that_raises(error: ImportError) -> Callable[..., None]:
    """A command that cannot be imported: it says why, and the way out, when it is called."""

    def command(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
        raise error if isinstance(error, RfprmError) else RfprmError(str(error))

    # In the list of commands there is no room for more.
    command.__doc__ = (
        f"(needs the extra {error.extra})"
        if isinstance(error, MissingExtraError)
        else "(cannot be loaded)"
    )
    return command


def main() -> None:
    """Run the command line."""
    _run(all_commands())


def run_command(module: str, name: str) -> None:
    """Run one command by itself, as the scripts in ``export/`` and ``training/`` do."""

    def run() -> None:
        single = _shell()
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
