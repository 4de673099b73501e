"""One run at a time: an output, or a folder that keeps work, belongs to the run that claims it.

Locks end with their process, however it ends. On a system or file system without locks, nothing is
claimed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rfprm_runtime.errors import OutputError
from rfprm_runtime.ground.partial_names import stem_of
from rfprm_runtime.ground.whole_files import told_what_to_do

_WAY_OUT = "wait for it, or choose another output"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Keep other runs from writing ``output``, a file or a folder, and the files beside it.

    Its lock is a file of its own, because outputs are replaced. Raises :class:`OutputError` if
    another run holds it.
    """
    output = output.resolve()
    lock = output.with_name(f".{stem_of(output.name)}.lock")
    with told_what_to_do(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked_file(lock, output)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before it is unlocked: whoever waits for it looks again
        os.close(handle)


@contextmanager
def claimed_folder(folder: Path, way_out: str = _WAY_OUT) -> Iterator[None]:
    """The same for a folder that stays in its place, whose files are replaced one by one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder, way_out)
        yield
    finally:
        os.close(handle)


@contextmanager
def waiting_for(lock: Path) -> Iterator[None]:
    """Hold the file ``lock`` during the block, once every other holder is done."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(handle, lock, None)
        yield
    finally:
        os.close(handle)


def _locked_file(lock: Path, output: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, output, _WAY_OUT)
            if _is_at(handle, lock):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just removed it


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int, output: Path, way_out: str | None) -> None:
    """Lock an open file. ``way_out``: what to do if another run has it; None waits."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if way_out else 0))
    except OSError as error:
        if error.errno in _BUSY:
            raise OutputError(f"another run is using {output}; {way_out}") from None
        # Otherwise it is a network file system without locks.
