"""The numbers of all scored traces in memory: 32 bytes per trace, and no texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.scores.aggregation import Aggregation, aggregate_steps
from rfprm_runtime.selection.scores import ShardScores
from rfprm_runtime.traces.shards import Shard


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
