"""Measures how large the inputs of every linear get on real traces, to calibrate fp8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.graph_parts import GraphParts, feeds_of
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.trial_graph import trial_scorer
from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.rows import ALL_ROWS_AT_ONCE, TokenBatch, rows_of
from rfprm_runtime.types import Trajectory

_PREFIX = "max:"


def largest_inputs(prm: LoadedPRM, traces: Sequence[Trajectory]) -> dict[str, float]:
    """Linear → the largest magnitude of its inputs over ``traces``, in float32."""
    if not traces:
        raise ExportError("there are no traces to calibrate fp8 on; give at least one")
    largest: dict[str, float] = {}
    walk = Walk()

    def open_backend(path: Path) -> _WatchingBackend:
        return _WatchingBackend(path, largest, walk)

    with trial_scorer(prm, open_backend, walk, watched=True) as scorer:
        scorer.score_batch(traces, overflow="window")
    return largest


class _WatchingBackend:
    """Runs a watched graph and records in ``largest`` the largest inputs it sees."""

    limits = ALL_ROWS_AT_ONCE
    description = "onnxruntime, watched"

    def __init__(self, path: Path, largest: dict[str, float], walk: Walk) -> None:
        self._graph, self.largest = GraphParts(ModelFile.of(path), walk), largest

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        rows = [feeds_of(row, self._graph.inputs) for row in rows_of(batch)]
        found = self._graph.run(rows, threads)
        for name in self._graph.outputs:
            if name.startswith(_PREFIX):
                values = [float(row[name]) for row in found]
                self.largest[name.removeprefix(_PREFIX)] = max(values)
        return np.concatenate([row["logits"] for row in found])

    def close(self) -> None:
        pass
