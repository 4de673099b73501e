"""What rows know about every scored trace besides its score: its group, and whether it is right.

It is taken while a shard is in memory for scoring, and read again for shards that were scored
before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.ground.arguments import is_nothing
from rfprm_runtime.selection.score_table import ScoreTable
from rfprm_runtime.selection.scores import ShardScores, trace_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.right import Agree, is_right
from rfprm_runtime.traces.shards import Block, Shard
from rfprm_runtime.traces.sources import Source
from rfprm_runtime.types import Trajectory

NO_GROUP = "(none)"
Found = TypeVar("Found")


class ShardReader(Generic[Found]):
    """Computes something from the records of a shard's scored traces, once for each shard."""

    def __init__(self, compute: Callable[[list[Record]], Found], reading: Reading) -> None:
        self._compute = compute
        self._reading = reading
        self._of_shards: dict[int, Found] = {}

    def take(self, block: Block, scores: ShardScores) -> None:
        """Compute it for a shard that is in memory."""
        self._of_shards[block.shard.index] = self._of(block, scores.row, scores.generation)

    def each(self, source: Source, shards: Iterable[Shard], table: ScoreTable) -> Iterator[Found]:
        """What was computed, in the order of the input; shards without a scored trace are left
        out. Reads what was not taken."""
        for shard in shards:
            found = self._of_shards.pop(shard.index, None)
            place = table.of_shard(shard)
            if found is None and place.start < place.stop:
                block = source.read(shard, self._reading)
                found = self._of(block, table.row[place], table.generation[place])
            if found is not None:
                yield found

    def _of(self, block: Block, rows: NDArray[np.int32], generations: NDArray[np.int32]) -> Found:
        pairs = zip(rows.tolist(), generations.tolist(), strict=True)
        return self._compute([trace_of(block.records[row], index) for row, index in pairs])


@dataclass(frozen=True)
class Groups:
    """The group of each trace."""

    code: NDArray[np.int32]  # [N], indices into names
    names: list[str]


class GroupReader(ShardReader[Groups]):
    """The value of one field for every trace.

    A row whose field is missing or empty (null, NaN) is in the group ``(none)``. If the field is a
    list with one value per generation, each generation has its own group.
    """

    def __init__(self, field: str, reading: Reading) -> None:
        super().__init__(lambda traces: _groups(traces, field), reading)

    def read(self, source: Source, shards: Iterable[Shard], table: ScoreTable) -> Groups | None:
        """The groups of all traces, or None if no row has a value."""
        names, codes = {NO_GROUP: 0}, [np.array([], dtype=np.int32)]
        for found in self.each(source, shards, table):
            # Named in the order of the input, whichever shard was scored first.
            own = [names.setdefault(name, len(names)) for name in found.names]
            codes.append(np.array(own, dtype=np.int32)[found.code])
        return Groups(np.concatenate(codes), list(names)) if len(names) > 1 else None


def _groups(traces: list[Record], field: str) -> Groups:
    names: dict[str, int] = {}
    codes = []
    for trace in traces:
        value = trace.own.get(field)
        name = NO_GROUP if is_nothing(value) else _name(value)
        codes.append(names.setdefault(name, len(names)))
    return Groups(np.array(codes, dtype=np.int32), list(names))


def _name(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


class RightReader(ShardReader[NDArray[np.float32]]):
    """Whether every trace is right: 1, 0, or NaN where its row does not know."""

    def __init__(self, agree: Agree, reading: Reading) -> None:
        super().__init__(lambda traces: _verdicts(traces, agree), reading)

    def read(
        self, source: Source, shards: Iterable[Shard], table: ScoreTable
    ) -> NDArray[np.float32]:
        """float32 [N]."""
        empty = np.array([], dtype=np.float32)
        return np.concatenate([empty, *self.each(source, shards, table)])


def _verdicts(traces: list[Record], agree: Agree) -> NDArray[np.float32]:
    verdicts = []
    for trace in traces:
        assert isinstance(trace.trajectory, Trajectory)  # it has a score
        verdict = is_right(trace, trace.trajectory, agree)
        verdicts.append(np.nan if verdict is None else float(verdict))
    return np.array(verdicts, dtype=np.float32)
