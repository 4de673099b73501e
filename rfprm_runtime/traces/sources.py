"""Where records come from: files, standard input, data sets of the Hub.

A new format is a class beside :class:`JsonlSource` and a row in the table of suffixes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from rfprm_runtime.errors import InvalidTrajectoryError, SourceError
from rfprm_runtime.traces.bytes import PACKED_SUFFIXES, suffix_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.jsonl import JsonlSource, JsonlStream
from rfprm_runtime.traces.listed import csv_source, json_source
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.shards import Block, OnNames, Plan, Shard
from rfprm_runtime.traces.tables import (
    HUB_PREFIX,
    ArrowSource,
    FolderSource,
    HubSource,
    HubStream,
    ParquetSource,
)
from rfprm_runtime.types import Trajectory

_CHECK_RECORDS = 256
JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")


class Stream(Protocol):
    """A source that is read once, from its beginning."""

    name: str
    """A file's name without its folder, or ``hf://NAME``."""

    def records(self, reading: Reading) -> Iterator[Record]: ...

    def share_read(self) -> float | None:
        """How much of it ``records`` has read so far, in (0, 1]; None if that is unknown."""
        ...

    def check_unchanged(self) -> None:
        """Raises :class:`SourceError` if it changed since ``records`` began to read it."""
        ...

    def close(self) -> None: ...


class Source(Stream, Protocol):
    """A source that is read more than once and from the middle, in bounded memory."""

    schema: Any
    """The ``pyarrow.Schema`` of a source with types, else None."""

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the content: it changes if any row changes."""
        ...

    def plan(
        self, shard_rows: int, *, watched: Sequence[str] = (), on_names: OnNames | None = None
    ) -> Plan:
        """Divide it into shards and take its fingerprint, in one pass over a file. ``on_names`` is
        called with a place and its field names if one of the ``watched`` may be among them."""
        ...

    def read(self, shard: Shard, reading: Reading) -> Block: ...

    def count_rows(self) -> int:
        """How many records there are; blank lines do not count."""
        ...


def _json(path: Path) -> Source:
    return json_source(path) or JsonlSource(path)


_FILES: dict[str, Callable[[Path], Source]] = {
    **dict.fromkeys(JSONL_SUFFIXES, _json),
    ".csv": csv_source,
    ".tsv": csv_source,
    ".parquet": ParquetSource,
    ".arrow": ArrowSource,
    ".feather": ArrowSource,
}
_PACKED = {*JSONL_SUFFIXES, ".csv", ".tsv"}
STANDARD_INPUT = "-"


def open_source(source: str) -> Source:
    """Open a file, or a data set of the Hub, which is downloaded first.

    Files are JSON lines or a JSON array, CSV or TSV, each of them also packed (.gz, .bz2, .xz,
    .zst), Parquet or Arrow; or the folder of a data set that ``save_to_disk`` wrote. ``hf://NAME``
    is the split ``train``; ``hf://NAME:SPLIT`` is another split and ``hf://NAME@CONFIG:SPLIT``
    another configuration.

    Raises :class:`SourceError` if it cannot be opened.
    """
    if source == STANDARD_INPUT:
        raise SourceError("standard input can be read only once; save it to a file and name that")
    check_source(source)
    if source.startswith(HUB_PREFIX):
        return HubSource(source)
    path = Path(source)
    try:
        if path.is_dir():
            return FolderSource(path)
        return _FILES[suffix_of(path)](path)
    except OSError as error:
        raise SourceError(f"{source!r} cannot be read: {error}") from None


def open_stream(source: str) -> Stream:
    """Like :func:`open_source`, but a data set of the Hub is streamed, not stored, and ``-`` is
    standard input: JSON lines."""
    if source == STANDARD_INPUT:
        return JsonlStream("standard input", sys.stdin.buffer)
    return HubStream(source) if source.startswith(HUB_PREFIX) else open_source(source)


def check_source(source: str) -> None:
    """Raises :class:`SourceError` if there is no such file, or if its format is unknown."""
    if source.startswith(HUB_PREFIX) or source == STANDARD_INPUT:
        return
    path = Path(source)
    if os.path.isdir(path):
        return
    if not os.path.isfile(path):  # Path.is_file raises for some names
        raise SourceError(f"there is no file {source!r}; name data sets of the Hub as hf://NAME")
    if not os.access(path, os.R_OK):  # now, not after the model was loaded
        raise SourceError(f"{source!r} cannot be read: permission denied")
    if not is_data_file(path):
        known = ", ".join(dict.fromkeys((".jsonl", *_FILES)))
        raise SourceError(
            f"{source!r} ends in {path.suffix!r}, expected {known}, or a packed .jsonl or .csv "
            f"({', '.join(PACKED_SUFFIXES)})"
        )


def is_data_file(path: Path) -> bool:
    """Whether it is a file whose name ends as those that :func:`open_source` reads."""
    suffix = suffix_of(path)
    is_packed = path.suffix.lower() in PACKED_SUFFIXES
    return path.is_file() and suffix in (_PACKED if is_packed else _FILES)


def read_records(source: str, reading: Reading | None = None) -> Iterator[Record]:
    """Read ``source`` (see :func:`open_source`) lazily and in order, one record per row."""
    with closing(open_stream(source)) as stream:
        for number, record in enumerate(stream.records(reading or Reading()), start=1):
            if number % _CHECK_RECORDS == 0:
                stream.check_unchanged()
            yield record
        stream.check_unchanged()


def read_traces(source: str, reading: Reading | None = None) -> Iterator[Record]:
    """The same, but a row of several generations gives one record for each."""
    for record in read_records(source, reading):
        yield from record.each()


def count_rows(source: str) -> int:
    """How many records a file has, without reading their fields. Raises :class:`SourceError`."""
    with closing(open_source(source)) as opened:
        return opened.count_rows()


def read_trajectories(path: Path) -> list[Trajectory]:
    """All trajectories of a file. Raises :class:`InvalidTrajectoryError` at the first bad row."""
    trajectories = []
    for record in read_records(str(path), Reading(with_outcome=False)):
        if isinstance(record.trajectory, InvalidTrajectoryError):
            raise InvalidTrajectoryError(f"{record.place}: {record.trajectory}")
        trajectories.append(record.trajectory)
    return trajectories


def example_traces_path() -> Path:
    """The file of example traces that comes with the package, some right and some wrong."""
    return Path(__file__).parent.parent / "data" / "examples.jsonl"
