"""Sources divided into shards: consecutive rows that are read, scored and kept together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Plan:
    shards: list[Shard]
    fingerprint: dict[str, Any]
    """Identifies the content: it changes if any row changes."""

    @property
    def num_rows(self) -> int:
        return sum(shard.count for shard in self.shards)


@dataclass(frozen=True)
class Block:
    """The records of one shard in memory."""

    shard: Shard
    records: dict[int, Record]
    """By row, from 0 in the whole source; blank lines have none."""
    table: Any = None
    """The same rows as a ``pyarrow.Table``, if the source has types."""


def equal_shards(num_rows: int, shard_rows: int) -> list[Shard]:
    return [
        Shard(index, start, min(shard_rows, num_rows - start))
        for index, start in enumerate(range(0, num_rows, shard_rows))
    ]
