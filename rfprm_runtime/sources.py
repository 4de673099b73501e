"""Where records come from: JSONL and Parquet files, data sets of the Hub. Streams, never whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rfprm_runtime.errors import InvalidTrajectoryError, MissingExtraError, SourceError
from rfprm_runtime.formats import Candidate, question_of, read_candidates
from rfprm_runtime.parsing import SplitRule
from rfprm_runtime.records import parse_object

HUB_PREFIX = "hf://"
JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")
SourceKind = Literal["jsonl", "parquet", "hub"]
_PARQUET_ROWS = 256


@dataclass(frozen=True)
class Record:
    """One trajectory of a source, or why there is none, and where it stands."""

    place: str
    found: Candidate | InvalidTrajectoryError


def read_records(source: str, *, split: SplitRule = "blank_lines") -> Iterator[Record]:
    """Every trajectory of ``source``, in order, lazily.

    ``source`` is a ``.jsonl``/``.json`` or ``.parquet`` file, or ``hf://NAME``, with
    ``hf://NAME:SPLIT`` for another split than ``train`` and ``hf://NAME@CONFIG:SPLIT`` for another
    configuration. Raises :class:`SourceError` where it cannot be opened.
    """
    name = source if source.startswith(HUB_PREFIX) else Path(source).name
    for place, row in _placed_rows(source):
        if isinstance(row, InvalidTrajectoryError):
            yield Record(f"{name}, {place}", row)
            continue
        for found in read_candidates(row, split=split, source=name):
            yield Record(f"{name}, {place}", found)


def read_questions(source: str) -> Iterator[tuple[str, str | InvalidTrajectoryError]]:
    """The place and question of every record, whether or not it holds a trace. Raises like
    :func:`read_records`."""
    for place, row in _placed_rows(source):
        if isinstance(row, InvalidTrajectoryError):
            yield place, row
            continue
        try:
            question = question_of(row)
        except InvalidTrajectoryError as error:
            yield place, error
            continue
        is_text = isinstance(question, str) and bool(question.strip())
        yield place, question if is_text else InvalidTrajectoryError("the question is no text")


def _placed_rows(source: str) -> Iterator[tuple[str, dict[str, Any] | InvalidTrajectoryError]]:
    unit = "line" if kind_of(source) == "jsonl" else "row"
    for number, row in read_rows(source):
        yield f"{unit} {number}", row


def read_rows(source: str) -> Iterator[tuple[int, dict[str, Any] | InvalidTrajectoryError]]:
    """Every row of ``source`` with its number from 1 (of JSONL the line; blank ones are passed
    over), lazily. Raises like :func:`read_records`."""
    kind = kind_of(source)
    if kind == "hub":
        return _hub_rows(source)
    return _parquet_rows(Path(source)) if kind == "parquet" else _json_rows(Path(source))


def kind_of(source: str) -> SourceKind:
    """How ``source`` is read. Raises :class:`SourceError` where there is no such file."""
    if source.startswith(HUB_PREFIX):
        return "hub"
    path = Path(source)
    if not path.is_file():
        raise SourceError(
            f"there is no file {source!r}; data sets of the Hub are spelled hf://NAME"
        )
    if path.suffix == ".parquet":
        return "parquet"
    if path.suffix in JSONL_SUFFIXES:
        return "jsonl"
    raise SourceError(f"{source!r} ends in {path.suffix!r}, expected .jsonl or .parquet")


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | InvalidTrajectoryError]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, parse_json_row(line)


def parse_json_row(line: bytes) -> dict[str, Any] | InvalidTrajectoryError:
    """The fields of a line of a JSONL file, or why it has none."""
    try:
        return parse_object(line)
    except InvalidTrajectoryError as error:
        return error


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, without_absent(row)


def open_parquet(path: Path) -> Any:
    """A ``pyarrow.parquet.ParquetFile``. Raises :class:`SourceError` where it is none."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "select", "Parquet files") from None
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path} is not a Parquet file: {error}") from None


def without_absent(row: dict[str, Any]) -> dict[str, Any]:
    """The fields that a row of a table has: those of other rows are None there."""
    return {name: value for name, value in row.items() if value is not None}


def _hub_rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(open_hub_rows(source, streaming=True), start=1):
        yield number, without_absent(row)


def open_hub_rows(source: str, *, streaming: bool) -> Any:
    """The data set ``hf://NAME[@CONFIG][:SPLIT]``: streamed, or downloaded once and then read from
    the cache of ``datasets``. Raises :class:`SourceError`."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "select", "data sets of the Hub") from None
    name, _, split = source.removeprefix(HUB_PREFIX).partition(":")
    name, _, config = name.partition("@")
    try:
        return datasets.load_dataset(
            name, config or None, split=split or "train", streaming=streaming
        )
    except Exception as error:  # whatever the Hub's client raises, there is no data
        raise SourceError(f"the data set {name!r} cannot be opened: {error}") from None
