"""Writes the chosen rows with all their fields and the added ones, whole or not at all.

JSON lines stay JSON lines; a table keeps its types.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.partial_names import beside
from rfprm_runtime.ground.whole_files import replacing_path
from rfprm_runtime.selection.conversation import MESSAGES_FIELD, renamed_for_trl
from rfprm_runtime.traces.added_fields import GENERATION, WINDOWED_FROM, first_taken
from rfprm_runtime.traces.jsonl import json_line
from rfprm_runtime.traces.shards import Block
from rfprm_runtime.traces.sources import JSONL_SUFFIXES

Added = dict[str, Any]
"""The fields added to a chosen row."""
_GROUP_ROWS = 1024


def check_output(output: Path, source: str, schema: Any) -> None:
    """Raise :class:`RfprmError` if ``output`` cannot be written from this input."""
    if output.suffix not in (".parquet", *JSONL_SUFFIXES):
        raise RfprmError(f"{str(output)!r} ends in {output.suffix!r}, expected .jsonl or .parquet")
    if output.suffix == ".parquet" and schema is None:
        raise RfprmError(
            f"{source} has no column types, which {output.name} needs; choose an output that ends "
            "in .jsonl"
        )


def check_names(names: Sequence[str], added: Iterable[str], *, sft: bool, place: str) -> None:
    """Raise :class:`RfprmError` if an added field would overwrite an existing one."""
    renamed = renamed_for_trl(names) if sft else {}
    taken = first_taken([renamed.get(name, name) for name in names], added)
    if taken is not None:
        raise RfprmError(
            f"{place} already has the field {taken!r}, which would be overwritten; choose a "
            "--prefix for the added fields"
        )


def rows_of(block: Block, rows: list[int], added: list[Added]) -> list[dict[str, Any]]:
    """The ``rows`` of ``block``, repeats included, with the fields added to each."""
    found = []
    for row, extra in zip(rows, added, strict=True):
        kept = block.records[row].fields
        renamed = renamed_for_trl(list(kept)) if MESSAGES_FIELD in extra else {}
        found.append({**{renamed.get(k, k): v for k, v in kept.items()}, **extra})
    return found


def table_of(block: Block, rows: list[int], added: list[Added], schema: Any) -> Any:
    """The same as a ``pyarrow.Table`` with ``schema`` (see :func:`schema_with`)."""
    import pyarrow

    places = [row - block.shard.start for row in rows]
    table = block.table.take(pyarrow.array(places, pyarrow.int64()))
    columns = list(table.columns)
    for name in schema.names[len(columns) :]:
        columns.append(pyarrow.array([row[name] for row in added], schema.field(name).type))
    return pyarrow.Table.from_arrays(columns, schema=schema)


def schema_with(schema: Any, added: Mapping[str, str]) -> Any:
    """``schema`` followed by the ``added`` fields (own name → name in the output)."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    types = {
        "step_scores": pa.list_(pa.float32()),
        WINDOWED_FROM: pa.int32(),
        GENERATION: pa.int32(),
        "rank": pa.int64(),
        MESSAGES_FIELD: pa.list_(message),
    }
    fields = list(schema)
    if MESSAGES_FIELD in added:
        renamed = renamed_for_trl(schema.names)
        fields = [field.with_name(renamed.get(field.name, field.name)) for field in fields]
    for own, name in added.items():
        fields.append(pa.field(name, types.get(own, pa.float64())))
    return pa.schema(fields, metadata=schema.metadata)


def write_jsonl(
    path: Path, rows: Iterable[dict[str, Any]], order: NDArray[np.int64] | None = None
) -> None:
    """Write one line per row; with ``order``, line i is row ``order[i]``.

    Raises :class:`RfprmError` for a value that JSON cannot hold.
    """
    with replacing_path(path) as partial, partial.open("wb") as file:
        if order is None:
            file.writelines(map(_line, rows))
            return
        with tempfile.TemporaryFile(dir=path.parent) as spool:
            starts = [_append(spool, _line(row)) for row in rows]
            for index in order:
                spool.seek(starts[index])
                file.write(spool.readline())


def _append(spool: Any, line: bytes) -> int:
    start: int = spool.tell()
    spool.write(line)
    return start


def _line(row: dict[str, Any]) -> bytes:
    try:
        return json_line(row).encode()
    except TypeError as error:
        raise RfprmError(
            f"a row cannot be written as JSON: {error}; choose an output that ends in .parquet"
        ) from None


def write_parquet(
    path: Path, tables: Iterable[Any], schema: Any, order: NDArray[np.int64] | None = None
) -> None:
    """The same for tables with ``schema``."""
    with replacing_path(path) as partial:
        if order is None:
            _write_groups(partial, tables, schema)
            return
        spool = beside(path.resolve(), "spool")
        try:
            _write_arrow(spool, tables, schema)
            _write_groups(partial, _in_order(spool, order), schema)
        finally:
            spool.unlink(missing_ok=True)


def _write_groups(path: Path, tables: Iterable[Any], schema: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    waiting = schema.empty_table()
    with parquet.ParquetWriter(path, schema) as writer:
        for table in tables:
            waiting = pyarrow.concat_tables([waiting, table])
            if waiting.num_rows >= _GROUP_ROWS:
                writer.write_table(waiting)
                waiting = schema.empty_table()
        if waiting.num_rows:
            writer.write_table(waiting)


def _write_arrow(path: Path, tables: Iterable[Any], schema: Any) -> None:
    import pyarrow

    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _in_order(spool: Path, order: NDArray[np.int64]) -> Iterator[Any]:
    """The rows of an Arrow file in ``order``; the file is mapped, not read."""
    import pyarrow

    with pyarrow.memory_map(str(spool)) as file:
        table = pyarrow.ipc.open_file(file).read_all()
        for start in range(0, len(order), _GROUP_ROWS):
            yield table.take(pyarrow.array(order[start : start + _GROUP_ROWS]))
