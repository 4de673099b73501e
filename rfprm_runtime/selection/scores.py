"""The scores of one shard: computing them, and storing them as bytes.

Any worker turns the same shard into the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.scorer import Scorer
from rfprm_runtime.selection.settings import Scoring
from rfprm_runtime.traces.questions import question_key
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.shards import Block
from rfprm_runtime.traces.tally import Tally
from rfprm_runtime.types import Trajectory, TrajectoryScore

NO_GENERATION = -1
NOT_WINDOWED = -1


@dataclass(frozen=True)
class Failure:
    """A trace without a score."""

    row: int
    generation: int
    reason: str


@dataclass(frozen=True)
class ShardScores:
    """The traces of a shard with their scores, in order, and those that could not be scored."""

    row: NDArray[np.int32]  # [N], from 0
    generation: NDArray[np.int32]  # [N], from 0; NO_GENERATION if a row holds one trace
    question: NDArray[np.uint64]  # [N], a hash
    reward: NDArray[np.float64]  # [N]
    trajectory_score: NDArray[np.float64]  # [N], nan for a PRM without this readout
    num_tokens: NDArray[np.int32]  # [N]
    windowed_from: NDArray[np.int32]  # [N], NOT_WINDOWED if the trace fits
    num_steps: NDArray[np.int32]  # [N]
    step_scores: NDArray[np.float32]  # [sum of num_steps]
    failures: list[Failure] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    """Which fields the scored traces were read from."""

    def __len__(self) -> int:
        return len(self.row)

    def steps(self, index: int) -> NDArray[np.float32]:
        """The step scores of one trace."""
        end = int(self.num_steps[: index + 1].sum())
        return self.step_scores[end - int(self.num_steps[index]) : end]

    def all_steps(self) -> list[NDArray[np.float32]]:
        """The step scores of each trace."""
        return np.split(self.step_scores, np.cumsum(self.num_steps)[:-1]) if len(self) else []

    def to_bytes(self) -> bytes:
        """The content of an ``.npz`` file; equal scores give equal bytes."""
        failures = [[item.row, item.generation, item.reason] for item in self.failures]
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        texts: dict[str, Any] = {
            "failures": _as_bytes(failures),
            "tally": _as_bytes(self.tally.as_json()),
        }
        np.savez(buffer, **arrays, **texts)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> ShardScores:
        """Read :meth:`to_bytes`. Raises ``ValueError`` (or zipfile's error) if it is damaged."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            failures = json.loads(arrays["failures"].tobytes())
            tally = Tally.of_json(json.loads(arrays["tally"].tobytes()))
            found = {name: arrays[name] for name in _ARRAYS}
        return cls(**found, failures=[Failure(*item) for item in failures], tally=tally)


def _as_bytes(content: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(content, sort_keys=True).encode(), np.uint8)


_ARRAYS = {
    "row": np.int32,
    "generation": np.int32,
    "question": np.uint64,
    "reward": np.float64,
    "trajectory_score": np.float64,
    "num_tokens": np.int32,
    "windowed_from": np.int32,
    "num_steps": np.int32,
    "step_scores": np.float32,
}


_Scored = tuple[Record, Trajectory, TrajectoryScore]


def score_block(scorer: Scorer, block: Block, scoring: Scoring) -> ShardScores:
    """Score every trace of ``block``; one that cannot be scored becomes a failure with a reason."""
    traces = [trace for record in block.records.values() for trace in record.each()]
    items = [trace.trajectory for trace in traces]
    results = scorer.score_batch(items, overflow=scoring.overflow, on_error="return")
    scored: list[_Scored] = []
    failures, tally = [], Tally()
    for trace, item, result in zip(traces, items, results, strict=True):
        if isinstance(item, Trajectory) and isinstance(result, TrajectoryScore):
            scored.append((trace, item, result))
            tally.count(trace, item)
        else:
            failures.append(Failure(trace.place.row, _generation(trace), str(result)))
    return replace(_as_arrays(scored), failures=failures, tally=tally)


def _generation(trace: Record) -> int:
    return NO_GENERATION if trace.place.generation is None else trace.place.generation


def trace_of(record: Record, generation: int) -> Record:
    """The record of one of a row's traces, by the generation stored with its score."""
    return record if generation == NO_GENERATION else record.generation(generation)


def _as_arrays(scored: list[_Scored]) -> ShardScores:
    columns: dict[str, list[Any]] = {
        "row": [trace.place.row for trace, _, _ in scored],
        "generation": [_generation(trace) for trace, _, _ in scored],
        "question": [_hash(trajectory.question) for _, trajectory, _ in scored],
        "reward": [score.reward for *_, score in scored],
        "trajectory_score": [
            np.nan if score.trajectory_score is None else score.trajectory_score
            for *_, score in scored
        ],
        "num_tokens": [score.num_tokens for *_, score in scored],
        "windowed_from": [
            NOT_WINDOWED if score.windowed_from is None else score.windowed_from
            for *_, score in scored
        ],
        "num_steps": [len(score.step_scores) for *_, score in scored],
        "step_scores": [value for *_, score in scored for value in score.step_scores],
    }
    arrays: dict[str, Any] = {
        name: np.array(columns[name], dtype=kind) for name, kind in _ARRAYS.items()
    }
    return ShardScores(**arrays)


def _hash(question: str) -> int:
    digest = hashlib.blake2b(question_key(question).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
