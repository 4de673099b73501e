"""Files that are read whole: JSON arrays, and CSV and TSV tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError, SourceError
from rfprm_runtime.traces.bytes import Bytes, suffix_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.present import are_objects
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.shards import Block, OnNames, Plan, Shard, check_version, equal_shards

Row = dict[str, Any] | InvalidTrajectoryError


class ListedSource:
    """Rows in memory, numbered from 1."""

    schema = None

    def __init__(self, name: str, rows: Sequence[Row], content: bytes) -> None:
        self.name = name
        self._rows = rows
        self._num_read = 0
        self._content: dict[str, Any] = {
            "num_rows": len(rows),
            "num_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def records(self, reading: Reading) -> Iterator[Record]:
        for index in range(len(self._rows)):
            self._num_read = index + 1
            yield self._record(index, reading)

    def share_read(self) -> float | None:
        return self._num_read / len(self._rows) if self._num_read else None

    def fingerprint(self) -> dict[str, Any]:
        return self._content

    def plan(
        self, shard_rows: int, *, watched: Sequence[str] = (), on_names: OnNames | None = None
    ) -> Plan:
        """Divide the rows into shards. ``on_names`` is called with each row's place and names."""
        for index, row in enumerate(self._rows):
            if (
                on_names is not None
                and isinstance(row, dict)
                and not row.keys().isdisjoint(watched)
            ):
                on_names(f"row {index + 1} of the input", list(row))
        shards = equal_shards(len(self._rows), shard_rows, self._content["sha256"])
        return Plan(shards, self.fingerprint())

    def read(self, shard: Shard, reading: Reading) -> Block:
        check_version(self.name, shard, self._content["sha256"])
        rows = range(shard.start, shard.start + shard.count)
        return Block(shard, {row: self._record(row, reading) for row in rows})

    def check_unchanged(self) -> None:
        """The rows are in memory."""

    def count_rows(self) -> int:
        return len(self._rows)

    def close(self) -> None:
        pass

    def _record(self, index: int, reading: Reading) -> Record:
        return Record.of_row(Place(self.name, "row", index + 1), self._rows[index], reading)


def json_source(path: Path) -> ListedSource | None:
    """A file that is one JSON array, or one object around an array; None if it is JSON lines."""
    with closing(Bytes(path)) as file:
        first = _first_words(file)
        if not first or not _spans_lines(first):
            return None
        content = first + file.read()
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # as JSON lines, each bad one is named
    rows = _rows_in(value)
    return None if rows is None else ListedSource(path.name, rows, content)


def _first_words(file: Bytes) -> bytes:
    """The first line that is not blank, and the blank ones before it."""
    first = b""
    while line := file.readline():
        first += line
        if line.strip():
            break
    return first


def _spans_lines(first: bytes) -> bool:
    """Whether the file's JSON goes on after its first line, or that line is an array."""
    try:
        return not isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{")


def _rows_in(value: Any) -> list[Row] | None:
    if isinstance(value, dict):
        lists = [item for item in value.values() if are_objects(item)]
        value = lists[0] if len(lists) == 1 and len(value) == 1 else [value]
    if not isinstance(value, list):
        return None
    return [
        row if isinstance(row, dict) else _no_row(f"a JSON {type(row).__name__}") for row in value
    ]


def _no_row(came: str) -> InvalidTrajectoryError:
    return InvalidTrajectoryError(f"{came}, expected an object with a question and its steps")


def csv_source(path: Path) -> ListedSource:
    """A CSV or TSV file with a header. Cells that hold a JSON list or object are read as one.

    Raises :class:`SourceError` if it has no header or is not UTF-8.
    """
    with closing(Bytes(path)) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    csv.field_size_limit(sys.maxsize)  # a trace is longer than the 128 KiB that csv allows
    delimiter = "\t" if suffix_of(path) == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        if not reader.fieldnames:
            raise SourceError(f"{path} is empty, expected a first line with the columns' names")
        rows = [_row_of_cells(cells) for cells in reader]
    except csv.Error as error:
        raise SourceError(f"{path} is not CSV after line {reader.line_num}: {error}") from None
    return ListedSource(path.name, rows, content)


def _row_of_cells(cells: dict[Any, Any]) -> Row:
    if None in cells:
        return InvalidTrajectoryError(
            f"has {len(cells[None])} more cells than the header has columns; quote cells that hold "
            "the delimiter"
        )
    return {name: _cell(value) for name, value in cells.items()}


def _cell(value: str | None) -> Any:
    if value and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
