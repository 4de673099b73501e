"""The backend protocols: what a backend has to offer the engine.

A backend knows token ids and marker positions. It knows no text, no steps and no rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenBatch


class Backend(Protocol):
    """Runs batches. ``run`` may be called from several threads at once."""

    @property
    def limits(self) -> BackendLimits: ...

    @property
    def description(self) -> str:
        """Library, version and device, for people to read."""
        ...

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        """Logits float32 [num_markers, num_labels], rows in the order of the marker positions.

        ``threads``: how many cores this call may use. A backend that cannot split a call runs it
        on one. The logits do not depend on it.
        """
        ...

    def close(self) -> None:
        """Free the model. Calling it twice is fine."""
        ...


@runtime_checkable
class CachingBackend(Backend, Protocol):
    """A backend that can continue from a past, so that a shared prefix is computed once.

    Only :class:`~rfprm_runtime.engine.engine.Engine` asks which of the two a backend is.
    """

    def extend(self, extensions: Sequence[Extension], threads: int = 1) -> list[Extended]:
        """Run all ``extensions`` in one pass over the weights.

        The logits equal those of each whole row run alone: on a CPU to the bit, on a GPU to the
        rounding of the backend's precision.
        """
        ...
