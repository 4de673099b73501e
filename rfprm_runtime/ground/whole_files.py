"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rfprm_runtime.errors import RfprmError


def check_target(path: Path, *, reads: Iterable[Path] = ()) -> None:
    """Raises :class:`RfprmError` where no file can be written to ``path``, or where it is one of
    those that ``reads`` it is made from: before the work, and not after it."""
    if path.is_dir():  # also "." and "/"
        raise RfprmError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise RfprmError(
            f"{path} is no regular file, and the output takes the place of what is there; name a "
            "file"
        )
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise RfprmError(f"{above} is a file, no {path} can be made below it; name another output")
    if not os.access(above, os.W_OK):
        raise RfprmError(f"no file can be made in {above}: permission denied; name another output")
    for source in reads:
        if path.exists() and source.exists() and path.samefile(source):
            raise RfprmError(f"{path} is the input itself; choose another output file")


def errors_path_of(output: Path) -> Path:
    """Where what failed on the way to ``output`` is listed, a line each."""
    return output.with_name(output.name + ".errors.jsonl")


def write_whole(path: Path, text: str) -> None:
    """Write beside ``path``, then take its place: a kill leaves the file that was there before."""
    with replacing(path) as file:
        file.write(text)


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A file that takes the name ``path`` when the block ends well, and is removed otherwise."""
    with replacing_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """The same for what opens its files itself: the block creates the file that it is given.

    A link stays, and the file that it leads to is replaced. Raises as :func:`check_target` does.
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
    """An empty folder that takes the name ``path`` when the block ends well, and is removed
    otherwise. What killed processes left of the same folder is removed first."""
    path = path.resolve()  # a link stays, and what it leads to is replaced
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
    # A folder cannot be renamed over a full one; the old one steps aside for the moment.
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of the files that they were to write (``name`` may hold
    wildcards)."""
    for partial in leftovers(folder, f".{name}.partial-*"):
        partial.unlink(missing_ok=True)


def leftovers(folder: Path, pattern: str) -> Iterator[Path]:
    """What matches ``pattern`` and ends in the number of a process that no longer runs."""
    for path in folder.glob(pattern):
        owner = path.name.rpartition("-")[2]
        if owner.isdigit() and not _is_running(int(owner)):
            yield path


def _is_running(process_id: int) -> bool:
    """Whether another process of this machine has that number. Of our own there may be leftovers,
    too: of an earlier process that had our number, as in a container each of them has."""
    if process_id == os.getpid():
        return False
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
