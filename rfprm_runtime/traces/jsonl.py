"""JSONL, one JSON object per line: parses lines, writes lines, and reads files as a source.

A bad line becomes an error in its place and never stops the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError, SourceError
from rfprm_runtime.ground.strict_json import MAX_DEPTH, is_deeper_than
from rfprm_runtime.traces.bytes import PACKED_SUFFIXES, Bytes
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.shards import Block, OnNames, Plan, Shard, check_version

_JSON_KINDS = {list: "array", str: "string", bool: "boolean", type(None): "null"}


def parse_object(content: bytes) -> dict[str, Any]:
    """The fields of a line. Raises :class:`InvalidTrajectoryError` if it is not a JSON object."""
    if content.startswith(b"\x1f\x8b"):
        raise InvalidTrajectoryError("compressed by gzip; let the file's name end in .gz")
    if is_deeper_than(content, MAX_DEPTH):
        raise InvalidTrajectoryError(f"nested deeper than {MAX_DEPTH} levels; flatten the row")
    try:
        # Without its line end, or the error about a cut-off line would point to line 2.
        fields = json.loads(content.rstrip(b"\r\n").decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidTrajectoryError(
            f"not UTF-8: byte {content[error.start]:#04x} at column {error.start}; save the file "
            "as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidTrajectoryError(f"not JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidTrajectoryError(f"not JSON that can be read: {error}") from None
    if not isinstance(fields, dict):
        kind = _JSON_KINDS.get(type(fields), "number")
        raise InvalidTrajectoryError(
            f"a JSON {kind}, expected an object with a question and its steps"
        )
    return fields


def json_line(fields: dict[str, Any]) -> str:
    """``fields`` as a line of a JSONL file, with its line end; text stays readable.

    NaN and infinite numbers, which Python reads but JSON does not have, become null: most other
    readers would refuse the whole line. Raises ``TypeError`` for values that JSON has no form for,
    such as the dates of a table.
    """
    try:
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    except ValueError:
        fields = without_infinities(fields)
        text = json.dumps(fields, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape but UTF-8 cannot hold
        text = json.dumps(fields, allow_nan=False)
    return text + "\n"


def without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: without_infinities(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    return value


class JsonlSource:
    """A JSONL file, packed or not. Every line is a row, blank ones included, so row numbers are
    line numbers."""

    schema = None

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._share_read: float | None = None
        self._fingerprint: dict[str, Any] | None = None
        self._began_with: os.stat_result | None = None
        self._is_packed = path.suffix.lower() in PACKED_SUFFIXES
        self._shards: Bytes | None = None

    def records(self, reading: Reading) -> Iterator[Record]:
        """Every line that is not blank, lazily."""
        for number, _, line in self._lines():
            if line.strip():
                yield self._record(number, line, reading)

    def share_read(self) -> float | None:
        """How much of the file :meth:`records` has read so far, in (0, 1]."""
        return self._share_read

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the content. Free once the file was read to its end, else a pass over it."""
        if self._fingerprint is None:
            for _ in self._lines():
                pass
        assert self._fingerprint is not None
        return self._fingerprint

    def plan(
        self, shard_rows: int, *, watched: Sequence[str] = (), on_names: OnNames | None = None
    ) -> Plan:
        """Divide the file into shards, in one pass. ``on_names`` is called with the place and the
        field names of each row that may have one of the ``watched`` names."""
        # Most lines contain none of them and need not be parsed; escapes may spell anything.
        names = [json.dumps(name, ensure_ascii=False).encode() for name in watched]
        marks = [rb"\u", rb"\/", *names]
        starts, digests, num_rows = [], [], 0
        for number, offset, line in self._lines():
            num_rows = number
            if (number - 1) % shard_rows == 0:
                starts.append(offset)
                digests.append(hashlib.sha256())
            digests[-1].update(line)
            if on_names is not None and any(mark in line for mark in marks):
                row = _parse(line)
                if isinstance(row, dict):
                    on_names(f"row {number} of the input", list(row))
        shards = [
            Shard(index, first, min(shard_rows, num_rows - first), offset, digest.hexdigest())
            for index, (first, offset, digest) in enumerate(
                zip(range(0, num_rows, shard_rows), starts, digests, strict=True)
            )
        ]
        return Plan(shards, self.fingerprint())

    def read(self, shard: Shard, reading: Reading) -> Block:
        lines = self._lines_of(shard)
        check_version(self.name, shard, hashlib.sha256(b"".join(lines)).hexdigest())
        rows = enumerate(lines, start=shard.start)
        records = {row: self._record(row + 1, line, reading) for row, line in rows if line.strip()}
        return Block(shard, records)

    def _lines_of(self, shard: Shard) -> list[bytes]:
        if not self._is_packed:
            with closing(Bytes(self._path)) as file:
                file.skip_to(shard.offset)
                return [file.readline() for _ in range(shard.count)]
        file = self._at(shard.offset)
        return [file.readline() for _ in range(shard.count)]

    def check_unchanged(self) -> None:
        """Raises :class:`SourceError` if the file was written to since :meth:`records` began."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return  # what is read stays open until it is read
        then = self._began_with
        if then is None or now.st_ino != then.st_ino:
            return  # another file took its name; what is read is the old one
        if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            raise SourceError(
                f"{self._path} changed while it was read; run it again when nothing writes to it"
            )

    def count_rows(self) -> int:
        return sum(1 for _, _, line in self._lines() if line.strip())

    def close(self) -> None:
        if self._shards is not None:
            self._shards.close()
            self._shards = None

    def _at(self, offset: int) -> Bytes:
        """A packed file at ``offset``. It stays open, since it can only be read forwards."""
        if self._shards is not None and self._shards.position > offset:
            self.close()
        if self._shards is None:
            self._shards = Bytes(self._path)
        self._shards.skip_to(offset)
        return self._shards

    def _record(self, number: int, line: bytes, reading: Reading) -> Record:
        return Record.of_row(Place(self.name, "line", number), _parse(line), reading)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """The number (from 1), offset and content of each line."""
        digest, number = hashlib.sha256(), 0
        with closing(Bytes(self._path)) as file:
            self._began_with = file.began_with
            while line := file.readline():
                number += 1
                digest.update(line)
                self._share_read = file.share_read()
                yield number, file.position - len(line), line
            num_bytes = file.position
        self._fingerprint = {
            "num_rows": number,
            "num_bytes": num_bytes,
            "sha256": digest.hexdigest(),
        }


class JsonlStream:
    """JSON lines that are read once, such as standard input."""

    def __init__(self, name: str, lines: Iterable[bytes]) -> None:
        self.name = name
        self._lines = lines

    def records(self, reading: Reading) -> Iterator[Record]:
        """Every line that is not blank, lazily."""
        for number, line in enumerate(self._lines, start=1):
            if line.strip():
                yield Record.of_row(Place(self.name, "line", number), _parse(line), reading)

    def share_read(self) -> float | None:
        """None: its size is unknown."""
        return None

    def check_unchanged(self) -> None:
        """What was read cannot be read again."""

    def close(self) -> None:
        pass


def _parse(line: bytes) -> dict[str, Any] | InvalidTrajectoryError:
    try:
        return parse_object(line)
    except InvalidTrajectoryError as error:
        return error
