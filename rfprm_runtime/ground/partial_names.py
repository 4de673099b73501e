"""The names of unfinished files and folders, and which of them a killed process left.

A name says who writes: ``.NAME.partial-PID-START-HOST-N``, with the start time of the process
(another may get its PID later), a hash of the host's name (a folder may be shared, and the PIDs of
another host say nothing here) and a count (two threads may write the same output). Earlier versions
wrote ``.NAME.partial-PID``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

_KINDS = ("partial", "replaced", "removed", "spool")
_NAME = re.compile(
    rf"\.(?P<name>.+)\.(?P<kind>{'|'.join(_KINDS)})-(?P<pid>\d{{1,12}})"
    r"(?:-(?P<start>\d{1,20})-(?P<host>[0-9a-f]{8})-\d+)?(?:-spool)?",
    re.DOTALL,
)
_MAX_BYTES = 255
_ENDING_BYTES = 80
_count = itertools.count()


def beside(path: Path, kind: str) -> Path:
    """A new name in the folder of ``path``, for what this process writes."""
    process = os.getpid()
    ending = f"{process}-{_start_of(process) or 0}-{_host()}-{next(_count)}"
    return path.with_name(f".{stem_of(path.name)}.{kind}-{ending}")


def leftovers_of(path: Path, kinds: Collection[str] = _KINDS) -> Iterator[Path]:
    """What killed processes of this host left of the output ``path``."""
    stem = stem_of(path.name)
    for name, found in _dead(path.parent):
        if found["name"] == stem and found["kind"] in kinds:
            yield path.with_name(name)


def leftovers(folder: Path) -> Iterator[Path]:
    """What killed processes of this host left of any output in ``folder``."""
    for name, _ in _dead(folder):
        yield folder / name


def _dead(folder: Path) -> Iterator[tuple[str, re.Match[str]]]:
    names = os.listdir(folder) if folder.is_dir() else []
    for name in names:
        found = _NAME.fullmatch(name) if name.startswith(".") else None
        if found is not None and not _is_running(found):
            yield name, found


def stem_of(name: str) -> str:
    """``name``, or its beginning and a hash if a longer one would exceed the system's limit."""
    if len(name.encode(errors="surrogateescape")) <= _MAX_BYTES - _ENDING_BYTES:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:16]
    short = name.encode(errors="surrogateescape")[: _MAX_BYTES - _ENDING_BYTES - 17]
    return f"{short.decode(errors='ignore')}~{digest}"


def _is_running(found: re.Match[str]) -> bool:
    """Whether the process that chose this name may still run."""
    process, start = int(found["pid"]), found["start"]
    if start is None and process == os.getpid():
        return False  # an earlier process with our PID: containers reuse them
    if found["host"] not in (None, _host()):
        return True
    if not _is_there(process):
        return False
    started = _start_of(process)
    return start is None or started is None or int(start) in (0, started)


def _is_there(process: int) -> bool:
    if os.name == "nt":  # where os.kill ends the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _start_of(process: int) -> int | None:
    """When a process began, in ticks since the start of the system; None where that is unknown."""
    try:
        content = Path(f"/proc/{process}/stat").read_bytes()
        return int(content.rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
