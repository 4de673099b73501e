"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


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
    """The same for what opens its files itself: the block creates the file that it is given."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of the files that they were to write (``name`` may hold
    wildcards). No process may be writing them now."""
    for partial in folder.glob(f".{name}.partial-*"):
        partial.unlink(missing_ok=True)
