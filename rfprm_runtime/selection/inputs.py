"""Inputs that are read more than once and from the middle: rows by shard, in bounded memory.

Knows files and tables; knows no traces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rfprm_runtime.artifact import describe_file
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.sources import (
    kind_of,
    open_hub_rows,
    open_parquet,
    parse_json_row,
    without_absent,
)

Row = dict[str, Any] | InvalidTrajectoryError | None
"""The fields of a row, or why it has none; None for a blank line."""
_READ_ROWS = 256


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of an input."""

    index: int
    start: int
    """The first row, from 0."""
    count: int
    offset: int = 0
    """Where the first row begins in a JSONL file, in bytes."""


@dataclass(frozen=True)
class Plan:
    shards: list[Shard]
    fingerprint: dict[str, Any]
    """What the input is; another one if a row changes."""

    @property
    def num_rows(self) -> int:
        return sum(shard.count for shard in self.shards)


@dataclass(frozen=True)
class Block:
    """The rows of one shard in memory."""

    rows: list[Row]
    table: Any = None
    """The same as a ``pyarrow.Table``, where the input has types."""


class Input(Protocol):
    schema: Any
    """The ``pyarrow.Schema`` of an input with types, else None."""

    def plan(self, shard_rows: int) -> Plan:
        """Divide the input; reads all of a file once, to know it again."""

    def read(self, shard: Shard) -> Block: ...

    def names_among(self, wanted: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """The names of all fields wherever one of ``wanted`` may be among them, with the place:
        of a table once, of lines for each such line."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Input: ...

    def __exit__(self, *exc_info: object) -> None: ...


def open_input(source: str) -> Input:
    """A JSONL or Parquet file, or ``hf://NAME[@CONFIG][:SPLIT]``, which is downloaded first.

    Raises :class:`SourceError` where it cannot be opened.
    """
    kind = kind_of(source)
    if kind == "hub":
        return HubInput(source)
    return ParquetInput(Path(source)) if kind == "parquet" else JsonlInput(Path(source))


class _Closing:
    schema: Any

    def names_among(self, wanted: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        yield "the input", self.schema.names

    def close(self) -> None:
        pass

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class JsonlInput(_Closing):
    """A row for every line, blank ones included, so that row numbers are line numbers."""

    schema = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def plan(self, shard_rows: int) -> Plan:
        digest, offset, num_rows = hashlib.sha256(), 0, 0
        starts = []
        with self._path.open("rb") as file:
            for line in file:
                if num_rows % shard_rows == 0:
                    starts.append(offset)
                digest.update(line)
                offset += len(line)
                num_rows += 1
        shards = [
            Shard(index, index * shard_rows, min(shard_rows, num_rows - index * shard_rows), start)
            for index, start in enumerate(starts)
        ]
        fingerprint = {"num_rows": num_rows, "num_bytes": offset, "sha256": digest.hexdigest()}
        return Plan(shards, fingerprint)

    def names_among(self, wanted: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        # Most lines spell none of them, and need not be parsed; escapes may spell anything.
        names = [json.dumps(name, ensure_ascii=False).encode() for name in wanted]
        marks = [rb"\u", *names]
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if any(mark in line for mark in marks):
                    row = parse_json_row(line)
                    if isinstance(row, dict):
                        yield f"row {number} of the input", list(row)

    def read(self, shard: Shard) -> Block:
        with self._path.open("rb") as file:
            file.seek(shard.offset)
            lines = (file.readline() for _ in range(shard.count))
            return Block([parse_json_row(line) if line.strip() else None for line in lines])


class ParquetInput(_Closing):
    """Reads forwards: a row group cannot be entered in the middle, so the reader stays where the
    last shard ended and starts again only for rows before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parquet(path)
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group_starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        self._position = 0
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None

    def plan(self, shard_rows: int) -> Plan:
        num_rows, file = self._file.metadata.num_rows, describe_file(self._path)
        fingerprint = {"num_rows": num_rows, "num_bytes": file.num_bytes, "sha256": file.sha256}
        return Plan(_equal_shards(num_rows, shard_rows), fingerprint)

    def read(self, shard: Shard) -> Block:
        group = int(np.searchsorted(self._group_starts, shard.start, side="right")) - 1
        group_start = int(self._group_starts[group])
        if self._rest is None or not group_start <= self._position <= shard.start:
            groups = range(group, len(self._group_starts) - 1)
            self._batches = self._file.iter_batches(_READ_ROWS, row_groups=groups)
            self._position, self._rest = group_start, next(self._batches)
        self._advance(shard.start - self._position)
        return _block(self._advance(shard.count), self.schema)

    def _advance(self, num_rows: int) -> list[Any]:
        """The next ``num_rows`` rows, as record batches."""
        taken = []
        self._position += num_rows
        while num_rows:
            if not self._rest.num_rows:
                self._rest = next(self._batches)
            taken.append(self._rest.slice(0, num_rows))
            self._rest = self._rest.slice(taken[-1].num_rows)
            num_rows -= taken[-1].num_rows
        return taken

    def close(self) -> None:
        self._file.close()


class HubInput(_Closing):
    """A data set of the Hub, from the memory-mapped cache of ``datasets``."""

    def __init__(self, source: str) -> None:
        self._data = open_hub_rows(source, streaming=False).with_format("arrow")
        self.schema = self._data.features.arrow_schema

    def plan(self, shard_rows: int) -> Plan:
        num_rows = self._data.num_rows
        # Private by name, but what datasets itself knows a data set by: it changes with the
        # revision, the configuration and the split, and not with the machine.
        fingerprint = {"num_rows": num_rows, "fingerprint": self._data._fingerprint}
        return Plan(_equal_shards(num_rows, shard_rows), fingerprint)

    def read(self, shard: Shard) -> Block:
        table = self._data[shard.start : shard.start + shard.count]
        return _block(table.to_batches(), self.schema)


def _equal_shards(num_rows: int, shard_rows: int) -> list[Shard]:
    return [
        Shard(index, start, min(shard_rows, num_rows - start))
        for index, start in enumerate(range(0, num_rows, shard_rows))
    ]


def _block(batches: list[Any], schema: Any) -> Block:
    import pyarrow

    table = pyarrow.Table.from_batches(batches, schema=schema)
    return Block([without_absent(row) for row in table.to_pylist()], table)
