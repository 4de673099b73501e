"""Tables as sources: Parquet and Arrow files, and data sets of the Hub or of a folder. Needs the
extra ``select``.

Reads in batches, never a whole table.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rfprm_runtime.artifact.integrity import describe_file
from rfprm_runtime.errors import MissingExtraError, SourceError
from rfprm_runtime.hub.refusals import LOG_IN
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.shards import (
    Block,
    OnNames,
    Plan,
    Shard,
    check_version,
    equal_shards,
)

HUB_PREFIX = "hf://"
_READ_ROWS = 256


class _Table:
    """What tables have in common: a schema, and rows numbered from 1."""

    name: str
    schema: Any
    num_rows: int

    def __init__(self) -> None:
        self._num_read = 0

    def records(self, reading: Reading) -> Iterator[Record]:
        """Every row, lazily."""
        for number, row in enumerate(self._rows(), start=1):
            self._num_read = number
            yield _record(self.name, number, row, reading)

    def share_read(self) -> float | None:
        """How much of the table :meth:`records` has read so far, in (0, 1]."""
        return self._num_read / self.num_rows if self._num_read else None

    def plan(
        self, shard_rows: int, *, watched: Sequence[str] = (), on_names: OnNames | None = None
    ) -> Plan:
        """Divide the table into shards. ``on_names`` is called once, with its columns."""
        if on_names is not None:
            on_names("the input", self.schema.names)
        shards = equal_shards(self.num_rows, shard_rows, self._version())
        return Plan(shards, self.fingerprint())

    def count_rows(self) -> int:
        return self.num_rows

    def fingerprint(self) -> dict[str, Any]:
        raise NotImplementedError

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _version(self) -> str | None:
        return None

    def _rows(self) -> Iterable[dict[str, Any]]:
        raise NotImplementedError

    def _block(self, shard: Shard, batches: list[Any], reading: Reading) -> Block:
        import pyarrow

        table = pyarrow.Table.from_batches(batches, schema=self.schema)
        rows = enumerate(table.to_pylist(), start=shard.start)
        records = {row: _record(self.name, row + 1, fields, reading) for row, fields in rows}
        return Block(shard, records, table)


def _record(name: str, number: int, row: dict[str, Any], reading: Reading) -> Record:
    return Record.of_row(Place(name, "row", number), row, reading)


class ParquetSource(_Table):
    """Shards are read forwards: a row group cannot be entered in the middle, so the reader stays
    where the last shard ended and starts again only for rows before it."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`SourceError` if ``path`` is not a Parquet file."""
        super().__init__()
        self.name = path.name
        self._path = path
        self._file = _open_parquet(path)
        self.schema = self._file.schema_arrow
        self._opened_as = self._version()
        metadata = self._file.metadata
        self.num_rows = metadata.num_rows
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group_starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        self._position = 0
        self._batches: Iterator[Any] = iter(())
        self._rest: Any = None

    def fingerprint(self) -> dict[str, Any]:
        file = describe_file(self._path)
        return {"num_rows": self.num_rows, "num_bytes": file.num_bytes, "sha256": file.sha256}

    def check_unchanged(self) -> None:
        if self._version() != self._opened_as:
            raise _changed(self._path)

    def _version(self) -> str:
        """A hash of the size and the footer, which says where every column is and what it spans."""
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            length = int.from_bytes(file.read(4), "little") + 8
            file.seek(max(0, size - length))
            return hashlib.sha256(f"{size} ".encode() + file.read(length)).hexdigest()

    def read(self, shard: Shard, reading: Reading) -> Block:
        check_version(self.name, shard, self._version())
        group = int(np.searchsorted(self._group_starts, shard.start, side="right")) - 1
        group_start = int(self._group_starts[group])
        if self._rest is None or not group_start <= self._position <= shard.start:
            groups = range(group, len(self._group_starts) - 1)
            self._batches = self._file.iter_batches(_READ_ROWS, row_groups=groups)
            self._position, self._rest = group_start, next(self._batches)
        self._advance(shard.start - self._position)
        return self._block(shard, self._advance(shard.count), reading)

    def close(self) -> None:
        self._file.close()

    def _rows(self) -> Iterator[dict[str, Any]]:
        for batch in self._file.iter_batches(_READ_ROWS):
            yield from batch.to_pylist()

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


class ArrowSource(_Table):
    """An Arrow file (or Feather, version 2), or stream as ``datasets`` writes it, mapped."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`SourceError` if ``path`` is not an Arrow file."""
        super().__init__()
        self.name = path.name
        self._path = path
        self._opened_as = _size_and_time(path)
        self._table = _open_arrow(path)
        self.schema, self.num_rows = self._table.schema, self._table.num_rows

    def fingerprint(self) -> dict[str, Any]:
        file = describe_file(self._path)
        return {"num_rows": self.num_rows, "num_bytes": file.num_bytes, "sha256": file.sha256}

    def check_unchanged(self) -> None:
        if _size_and_time(self._path) != self._opened_as:
            raise _changed(self._path)

    def read(self, shard: Shard, reading: Reading) -> Block:
        rows = self._table.slice(shard.start, shard.count)
        return self._block(shard, rows.to_batches(), reading)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches(max_chunksize=_READ_ROWS):
            yield from batch.to_pylist()


class _DataSet(_Table):
    """A data set of the library ``datasets``."""

    def __init__(self, name: str, data: Any) -> None:
        super().__init__()
        self.name = name
        self._data = data.with_format("arrow")
        self.schema, self.num_rows = self._data.features.arrow_schema, self._data.num_rows

    def fingerprint(self) -> dict[str, Any]:
        # Private by name, but datasets itself identifies data sets by it: it changes with the
        # revision, the configuration and the split, not with the machine.
        return {"num_rows": self.num_rows, "fingerprint": self._data._fingerprint}

    def read(self, shard: Shard, reading: Reading) -> Block:
        table = self._data[shard.start : shard.start + shard.count]
        return self._block(shard, table.to_batches(), reading)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for start in range(0, self.num_rows, _READ_ROWS):
            yield from self._data[start : start + _READ_ROWS].to_pylist()


class HubSource(_DataSet):
    """A data set of the Hub, downloaded once into the memory-mapped cache of ``datasets``."""

    def __init__(self, source: str) -> None:
        """``hf://NAME[@CONFIG][:SPLIT]``. Raises :class:`SourceError`."""
        super().__init__(source, _load(source, streaming=False))


class FolderSource(_DataSet):
    """A data set that ``save_to_disk`` wrote."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`SourceError` if the folder is no data set, or holds several splits."""
        splits = sorted(child.parent.name for child in path.glob("*/dataset_info.json"))
        if splits:
            raise SourceError(
                f"{path} holds the splits {splits}; name the folder of one of them, such as "
                f"{path / splits[0]}"
            )
        super().__init__(path.name, _load_folder(path))


class HubStream:
    """A data set of the Hub that is read once and never stored."""

    def __init__(self, source: str) -> None:
        """``hf://NAME[@CONFIG][:SPLIT]``. Raises :class:`SourceError`."""
        self.name = source
        self._data = _load(source, streaming=True)

    def records(self, reading: Reading) -> Iterator[Record]:
        """Every row, lazily."""
        for number, row in enumerate(self._data, start=1):
            yield _record(self.name, number, row, reading)

    def share_read(self) -> float | None:
        """None: the size of a stream is unknown."""
        return None

    def check_unchanged(self) -> None:
        pass

    def close(self) -> None:
        pass


def _size_and_time(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _changed(path: Path) -> SourceError:
    return SourceError(f"{path} changed while it was read; run it again when nothing writes to it")


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "select", "reading Parquet files") from None
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path} is not a Parquet file: {error}") from None


def _open_arrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("pyarrow", "select", "reading Arrow files") from None
    for kind in (pyarrow.ipc.open_file, pyarrow.ipc.open_stream):
        try:
            return kind(pyarrow.memory_map(str(path))).read_all()
        except pyarrow.ArrowInvalid as error:
            reason = error
    raise SourceError(f"{path} is not an Arrow file: {reason}")


def _load_folder(path: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "select", "reading saved data sets") from None
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # whatever the library raises, there is no data
        raise SourceError(
            f"{path} is a folder, and not a data set that save_to_disk wrote: {error}"
        ) from None


def _load(source: str, *, streaming: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "select", "reading data sets of the Hub") from None
    name, _, split = source.removeprefix(HUB_PREFIX).partition(":")
    name, _, config = name.partition("@")
    try:
        return datasets.load_dataset(
            name, config or None, split=split or "train", streaming=streaming
        )
    except Exception as error:  # whatever the Hub's client raises, there is no data
        is_unseen = type(error).__name__ == "DatasetNotFoundError"
        way_out = f"; if it is private or gated, {LOG_IN}" if is_unseen else ""
        raise SourceError(f"the data set {name!r} cannot be opened: {error}{way_out}") from None
