"""Sources divided into shards: consecutive rows that are read, scored and kept together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_runtime.errors import SourceError
from rfprm_runtime.traces.record import Record

OnNames = Callable[[str, Sequence[str]], object]
"""Called with a place and the names of the fields there."""


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a source."""

    index: int
    start: int
    """The first row, from 0."""
    count: int
    offset: int = 0
    """Where the first row begins in a JSONL file, in bytes."""
    version: str | None = None
    """Identifies the rows as they were when the source was divided, so that a change during the run
    is noticed; None for sources that cannot change."""


@dataclass(frozen=True)
class Plan:
    shards: list[Shard]
    fingerprint: dict[str, Any]
    """Identifies the content: it changes if any row changes."""

    @property
    def num_rows(self) -> int:
        return sum(shard.count for shard in self.shards)


def check_version(name: str, shard: Shard, found: str | None) -> None:
    """Raises :class:`SourceError` if rows are no longer those that the source was divided into."""
    if found != shard.version:
        raise SourceError(
            f"{name} changed during the run: rows {shard.start + 1} to {shard.start + shard.count} "
            "are not those it began with; restore the file, or start again with the new one"
        )


@dataclass(frozen=True)
class Block:
    """The records of one shard in memory."""

    shard: Shard
    records: dict[int, Record]
    """By row, from 0 in the whole source; blank lines have none."""
    table: Any = None
    """The same rows as a ``pyarrow.Table``, if the source has types."""


def equal_shards(num_rows: int, shard_rows: int, version: str | None = None) -> list[Shard]:
    return [
        Shard(index, start, min(shard_rows, num_rows - start), version=version)
        for index, start in enumerate(range(0, num_rows, shard_rows))
    ]
