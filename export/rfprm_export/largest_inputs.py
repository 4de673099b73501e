"""Measures how large the inputs of every linear get on real traces, to calibrate fp8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.trial_graph import trial_scorer
from rfprm_runtime.engine.rows import BackendLimits, TokenBatch
from rfprm_runtime.types import Trajectory

_PREFIX = "max:"


def largest_inputs(prm: LoadedPRM, traces: Sequence[Trajectory]) -> dict[str, float]:
    """Linear → the largest magnitude of its inputs over ``traces``, in float32."""
    if not traces:
        raise ExportError("there are no traces to calibrate fp8 on; give at least one")
    largest: dict[str, float] = {}
    with trial_scorer(prm, lambda path: _WatchingBackend(path, largest), watched=True) as scorer:
        scorer.score_batch(traces, overflow="window")
    return largest


class _WatchingBackend:
    """Runs a watched graph and records in ``largest`` the largest inputs it sees."""

    limits = BackendLimits()
    description = "onnxruntime, watched"

    def __init__(self, path: Path, largest: dict[str, float]) -> None:
        import onnxruntime as ort

        self._session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.largest = largest

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        feeds = {"token_ids": batch.token_ids, "marker_positions": batch.marker_positions}
        found = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        for name, value in found.items():
            if name.startswith(_PREFIX):
                linear = name.removeprefix(_PREFIX)
                self.largest[linear] = max(self.largest.get(linear, 0.0), float(value))
        logits: NDArray[np.float32] = found["logits"]
        return logits

    def close(self) -> None:
        self._session = None
