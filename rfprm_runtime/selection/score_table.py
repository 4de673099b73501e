"""The numbers of all scored traces in memory: 32 bytes per trace, and no texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.ground.arguments import is_nothing
from rfprm_runtime.scores.aggregation import Aggregation, aggregate_steps
from rfprm_runtime.selection.scores import ShardScores, trace_of
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.shards import Block, Shard
from rfprm_runtime.traces.sources import Source

NO_GROUP = "(none)"


@dataclass(frozen=True)
class ScoreTable:
    """All arrays [N], in input order."""

    row: NDArray[np.int32]
    generation: NDArray[np.int32]
    question: NDArray[np.uint64]
    score: NDArray[np.float64]
    """The score to rank by, before any length control."""
    num_tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)

    def of_shard(self, shard: Shard) -> slice:
        """The places of the traces of ``shard``."""
        first, last = np.searchsorted(self.row, (shard.start, shard.start + shard.count))
        return slice(int(first), int(last))


def read_score_table(shards: Iterable[ShardScores], score: Aggregation) -> ScoreTable:
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in _COLUMNS}
    for scores in shards:
        columns["row"].append(scores.row)
        columns["generation"].append(scores.generation)
        columns["question"].append(scores.question)
        columns["score"].append(_scores(scores, score))
        columns["num_tokens"].append(scores.num_tokens)
    # One column after another, so that only one is in memory twice.
    return ScoreTable(**{name: _joined(columns, name) for name in _COLUMNS})  # type: ignore[arg-type]


_COLUMNS = {
    "row": np.int32,
    "generation": np.int32,
    "question": np.uint64,
    "score": np.float64,
    "num_tokens": np.int32,
}


def _joined(columns: dict[str, list[NDArray[np.generic]]], name: str) -> NDArray[np.generic]:
    parts = columns.pop(name)
    return np.concatenate(parts) if parts else np.array([], dtype=_COLUMNS[name])


def _scores(scores: ShardScores, how: Aggregation) -> NDArray[np.float64]:
    if how == "reward":
        return scores.reward
    if how != "trajectory":
        values = [aggregate_steps(steps, how) for steps in scores.all_steps()]
        return np.array(values, dtype=np.float64)
    return scores.trajectory_score


@dataclass(frozen=True)
class Groups:
    """The group of each trace."""

    code: NDArray[np.int32]  # [N], indices into names
    names: list[str]


class GroupReader:
    """The value of one field for every trace: taken while a shard is in memory for scoring, and
    read again for shards that were scored before.

    A row whose field is missing or empty (null, NaN) is in the group ``(none)``. If the field is a
    list with one value per generation, each generation has its own group.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self._of_shards: dict[int, _ShardGroups] = {}

    def take(self, block: Block, scores: ShardScores) -> None:
        """Record the groups of a shard that is in memory."""
        self._of_shards[block.shard.index] = _groups_of_shard(
            block, scores.row, scores.generation, self.field
        )

    def read(self, source: Source, shards: Iterable[Shard], table: ScoreTable) -> Groups | None:
        """The groups of all traces, or None if no row has a value. Reads what was not taken."""
        names, codes = {NO_GROUP: 0}, [np.array([], dtype=np.int32)]
        for shard in shards:
            found = self._of_shards.pop(shard.index, None)
            place = table.of_shard(shard)
            if found is None and place.start < place.stop:
                rows, generations = table.row[place], table.generation[place]
                block = source.read(shard, Reading())
                found = _groups_of_shard(block, rows, generations, self.field)
            if found is not None:
                # In the order of the input, whichever shard was scored first.
                own = [names.setdefault(name, len(names)) for name in found.names]
                codes.append(np.array(own, dtype=np.int32)[found.code])
        return Groups(np.concatenate(codes), list(names)) if len(names) > 1 else None


@dataclass(frozen=True)
class _ShardGroups:
    code: NDArray[np.int32]  # [traces of the shard], indices into names
    names: list[str]


def _groups_of_shard(
    block: Block, rows: NDArray[np.int32], generations: NDArray[np.int32], field: str
) -> _ShardGroups:
    names: dict[str, int] = {}
    codes = []
    for row, generation in zip(rows.tolist(), generations.tolist(), strict=True):
        value = trace_of(block.records[row], generation).own.get(field)
        name = NO_GROUP if is_nothing(value) else _name(value)
        codes.append(names.setdefault(name, len(names)))
    return _ShardGroups(np.array(codes, dtype=np.int32), list(names))


def _name(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
