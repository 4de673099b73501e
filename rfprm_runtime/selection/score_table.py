"""The numbers of all scored traces in memory: 32 bytes a trace, and no texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.aggregation import Aggregation, aggregate_steps
from rfprm_runtime.arguments import is_nothing
from rfprm_runtime.formats import fields_of_generation
from rfprm_runtime.selection.inputs import Input, Shard
from rfprm_runtime.selection.scores import NO_GENERATION, ShardScores

NO_GROUP = "(none)"


@dataclass(frozen=True)
class ScoreTable:
    """All arrays [N], in input order."""

    row: NDArray[np.int32]
    generation: NDArray[np.int32]
    question: NDArray[np.uint64]
    score: NDArray[np.float64]
    """What is ranked by, before any length control."""
    num_tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)

    def of_shard(self, shard: Shard) -> slice:
        """Where the traces of ``shard`` stand."""
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
    # One column after the other, so that only one of them is in memory twice.
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

    code: NDArray[np.int32]  # [N], places in names
    names: list[str]


def read_groups(
    source: Input, shards: Iterable[Shard], table: ScoreTable, field: str
) -> Groups | None:
    """The value of ``field`` for every trace; None where no row has one.

    A row without it, or with nothing in it (null, NaN), is in the group ``(none)``. A list with a
    value for each of a row's generations names the group of each.
    """
    codes = np.zeros(len(table), dtype=np.int32)
    names = {NO_GROUP: 0}
    for shard in shards:
        place = table.of_shard(shard)
        if place.start == place.stop:
            continue
        for index, fields in _fields(source, shard, table, place):
            if not is_nothing(fields.get(field)):
                codes[index] = names.setdefault(_name(fields[field]), len(names))
    return Groups(codes, list(names)) if len(names) > 1 else None


def _fields(
    source: Input, shard: Shard, table: ScoreTable, place: slice
) -> Iterator[tuple[int, dict[str, object]]]:
    rows = source.read(shard).rows
    for index in range(place.start, place.stop):
        fields, generation = rows[table.row[index] - shard.start], int(table.generation[index])
        assert isinstance(fields, dict)  # it has a score
        yield (
            index,
            fields if generation == NO_GENERATION else fields_of_generation(fields, generation),
        )


def _name(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
