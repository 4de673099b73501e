"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rfprm_runtime.errors import RfprmError


def check_target(path: Path, *, reads: Iterable[Path] = ()) -> None:
    """Check before the work that ``path`` can be written and is not one of the inputs, ``reads``.

    Raises :class:`RfprmError`.
    """
    if path.is_dir():  # also "." and "/"
        raise RfprmError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise RfprmError(
            f"{path} is not a regular file, and the output would replace it; name a file"
        )
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise RfprmError(f"{above} is a file, so {path} cannot be created; name another output")
    if not os.access(above, os.W_OK):
        raise RfprmError(f"cannot create a file in {above}: permission denied; name another output")
    for source in reads:
        if path.exists() and source.exists() and path.samefile(source):
            raise RfprmError(f"{path} is the input itself; choose another output file")


def errors_path_of(output: Path) -> Path:
    """The file beside ``output`` that lists what failed, one line each."""
    return output.with_name(output.name + ".errors.jsonl")


def write_whole(path: Path, text: str) -> None:
    """Write beside ``path``, then rename: a kill leaves the old file in place."""
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A file that is renamed to ``path`` if the block succeeds and removed otherwise."""
    with replacing_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Like :func:`replacing`, for writers that open files themselves: the block creates the file.

    A link stays, and its target is replaced. Raises like :func:`check_target`.
    """
    check_target(path)
    path = path.resolve()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is renamed to ``path`` if the block succeeds and removed otherwise.
    Leftovers of killed processes are removed first."""
    path = path.resolve()  # a link stays, and its target is replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind in ("partial", "replaced"):
        for leftover in leftovers(path.parent, f".{path.name}.{kind}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        _take_place_of(path, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _take_place_of(path: Path, partial: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    # A folder cannot be renamed over one that is not empty, so the old one steps aside.
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the unfinished files of killed processes (``name`` may hold wildcards)."""
    for partial in leftovers(folder, f".{name}.partial-*"):
        partial.unlink(missing_ok=True)


def leftovers(folder: Path, pattern: str) -> Iterator[Path]:
    """Paths that match ``pattern`` and end in the PID of a process that no longer runs."""
    for path in folder.glob(pattern):
        owner = path.name.rpartition("-")[2]
        if owner.isdigit() and not _is_running(int(owner)):
            yield path


def _is_running(process_id: int) -> bool:
    """Whether another process has this PID. Our own PID counts as dead: containers reuse PIDs."""
    if process_id == os.getpid():
        return False
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True
