"""Files and folders that appear whole or not at all.

They are written beside their place (:mod:`.partial_names`), flushed to the disk, and renamed. A
full disk, an error or Ctrl-C leaves nothing; what a killed process leaves, the next writer of the
same output removes.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rfprm_runtime.errors import OutputError, RfprmError
from rfprm_runtime.ground.partial_names import beside, leftovers, leftovers_of
from rfprm_runtime.ground.swap import swap

_WAYS_OUT = {
    errno.ENOSPC: "free some space, or name an output on another disk",
    errno.EDQUOT: "free some space, or name an output on another disk",
    errno.EFBIG: "raise the limit (ulimit -f), or name an output on another disk",
    errno.EROFS: "name an output on a disk that can be written",
    errno.EIO: "check the disk, or name an output on another one",
}

_PROBE_BYTES = 1 << 20


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
    check_place(path)
    for source in reads:
        if path.exists() and source.exists() and path.samefile(source):
            raise RfprmError(f"{path} is the input itself; choose another output file")


def check_place(path: Path) -> None:
    """Check that a file or folder can be created at ``path``. Raises :class:`RfprmError`."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise RfprmError(f"{above} is a file, so {path} cannot be created; name another output")
    if not os.access(above, os.W_OK):
        raise RfprmError(f"cannot create a file in {above}: permission denied; name another output")


def check_new(path: Path, *, overwrite: bool) -> None:
    """Raises :class:`OutputError` if ``path`` exists and may not be replaced."""
    if path.is_file() and not overwrite:
        raise OutputError(f"{path} exists; choose another name, or use --overwrite")


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

    A link stays, and its target is replaced. Raises like :func:`check_target`, and
    :class:`OutputError` if the disk is full or the folder is gone.
    """
    check_target(path)
    path = path.resolve()
    remove_leftovers(path.parent, path.name)
    partial = beside(path, "partial")
    try:
        with told_what_to_do(path):
            yield partial
            _flush(partial)
            put_in_place(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that is renamed to ``path`` if the block succeeds and removed otherwise.

    An old folder stays until then. Raises like :func:`replacing_path`.
    """
    path = path.resolve()  # a link stays, and its target is replaced
    with told_what_to_do(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _bring_back(path)
        remove_leftovers(path.parent, path.name)
        partial = beside(path, "partial")
        partial.mkdir()
    try:
        with told_what_to_do(path):
            yield partial
            _flush_folder(partial)
            _take_place_of(path, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def replacing_files(folder: Path, *, last: str) -> Iterator[Path]:
    """An empty folder whose files move into ``folder`` if the block succeeds, ``last`` at the end.

    Whoever finds ``last`` in ``folder`` finds all of them. Raises like :func:`replacing_path`.
    """
    folder = folder.resolve()
    remove_leftovers(folder, last)
    partial = beside(folder / last, "partial")
    with told_what_to_do(folder):
        folder.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        try:
            yield partial
            _flush_folder(partial)
            for path in sorted(partial.iterdir(), key=lambda path: path.name == last):
                put_in_place(path, folder / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder among the system's temporary ones for the time of the block."""
    place = Path(tempfile.gettempdir()) / name
    remove_leftovers(place.parent, place.name)
    folder = beside(place, "partial")
    with told_what_to_do(folder):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def told_what_to_do(path: Path) -> Iterator[None]:
    """Turn errors that say the disk is full, and the like, into an :class:`OutputError` with the
    way out; ``path`` is what is being written."""
    try:
        yield
    except RfprmError:
        raise
    except Exception as error:
        number = _errno_of(error, path.parent)
        if number is None:
            raise
        raise OutputError(
            f"cannot write {path}: {os.strerror(number)}; {_WAYS_OUT[number]}"
        ) from error


def _errno_of(error: Exception, folder: Path) -> int | None:
    """The system's reason for a failed write, if it is one that the user can do something about."""
    if isinstance(error, OSError) and error.errno is not None:
        number: int | None = error.errno
    else:  # safetensors, pyarrow and torch wrap it in errors of their own
        number = _refusal_of(folder)
    return number if number in _WAYS_OUT else None


def _refusal_of(folder: Path) -> int | None:
    """Why ``folder`` takes no more bytes, or None if it does."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno
    return None


def put_in_place(partial: Path, path: Path) -> None:
    """Rename what is finished. Raises :class:`OutputError` if the folder is gone."""
    try:
        partial.replace(path)
    except FileNotFoundError as error:
        raise OutputError(
            f"cannot write {path}: its folder was removed or replaced during the run; run it again"
        ) from error


def _flush(path: Path) -> None:
    """Wait until the disk has it: some report that they are full only now."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return  # which put_in_place says
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _flush_folder(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _flush(path)


def _take_place_of(path: Path, partial: Path) -> None:
    if not path.exists():
        put_in_place(partial, path)
    elif swap(partial, path):
        shutil.rmtree(partial)  # the old one
    else:
        _step_aside(path, partial)


def _step_aside(path: Path, partial: Path) -> None:
    """Where two folders cannot be swapped at once. A kill in between leaves neither in place:
    :func:`_bring_back` restores the old one."""
    old = beside(path, "replaced")
    path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _bring_back(path: Path) -> None:
    if not path.exists():
        for old in leftovers_of(path, kinds=("replaced",)):
            old.rename(path)
            return


def remove_folder(folder: Path) -> None:
    """Remove a folder at once: after a kill in between, :func:`remove_leftovers` ends the work."""
    gone = beside(folder.resolve(), "removed")
    folder.rename(gone)
    shutil.rmtree(gone)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left of the output ``name``, or of any output in ``folder``."""
    found = leftovers(folder) if name is None else leftovers_of(folder / name)
    for path in list(found):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
