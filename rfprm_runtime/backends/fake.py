"""A backend without a model, public so that users can test their own code with it.

Its logits depend on the tokens up to each marker and on nothing else, as a causal model's do, so
scores are deterministic, differ between steps, and are independent of batching.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.random  # not late, while scoring: see ground/whole_imports.py
from numpy.typing import NDArray

from rfprm_runtime.engine.rows import BackendLimits, TokenBatch


class FakeBackend:
    """Pseudo-random logits in [-3, 3), a pure function of each marker's prefix."""

    description = "fake (no model)"

    def __init__(self, num_labels: int, *, limits: BackendLimits | None = None) -> None:
        self._num_labels = num_labels
        self.limits = limits or BackendLimits()

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        length = batch.token_ids.shape[1]
        rows = [divmod(int(position), length) for position in batch.marker_positions]
        prefixes = (batch.token_ids[row, : column + 1] for row, column in rows)
        logits = [self._logits(prefix) for prefix in prefixes]
        return np.array(logits, dtype=np.float32).reshape(len(rows), self._num_labels)

    def _logits(self, prefix: NDArray[np.int64]) -> NDArray[np.float64]:
        seed = zlib.crc32(np.ascontiguousarray(prefix).tobytes())
        return np.random.default_rng(seed).uniform(-3.0, 3.0, self._num_labels)

    def close(self) -> None:
        pass
