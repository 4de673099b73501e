"""What files and folders hold, as one number: results know their inputs by it, not by a path or a
time.

Reading a file costs a second for 0.5 to 2 GB. Within a process a file that has not changed since is
not read again.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

_known: dict[tuple[int, ...], str] = {}
# A change within a tick of the clock leaves the times as they are, so only older files are known.
_SETTLED_NS = 2 * 10**9
# Beside a model there may be what people read; it moves no score.
_NOT_CONTENT = {".md", ".lock", ".png", ".jpg", ".pdf"}


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read piece by piece: models may be larger than memory."""
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def content_of(path: Path, *, subfolders: bool = False) -> str | None:
    """The sha256 of a file, or one over the names and contents of the files in a folder; None if
    nothing is there. In a folder (of a model, say) hidden files and README.md do not count, and
    only with ``subfolders`` what is below."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path.rglob("*") if subfolders else path.iterdir()):
            name = file.relative_to(path)
            if file.is_file() and not _is_beside_the_point(name):
                digest.update(f"{name.as_posix()} {_known_or_read(file)}\n".encode())
        return digest.hexdigest()
    return _known_or_read(path) if path.is_file() else None


def _is_beside_the_point(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return hidden or name.suffix.lower() in _NOT_CONTENT


def _known_or_read(path: Path) -> str:
    state = _state_of(path)
    if state in _known:
        return _known[state]
    began = time.time_ns()
    digest = sha256_of(path)
    # ctime, too: it cannot be set back.
    if _state_of(path) == state and max(state[3:]) < began - _SETTLED_NS:
        _known[state] = digest
    return digest


def _state_of(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
