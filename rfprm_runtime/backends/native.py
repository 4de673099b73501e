"""Our own CPU kernels: 16-bit integer products, exact to the bit whatever is scored beside.

Knows token ids, marker positions, memory and threads; the arithmetic is in ``native/kernels.c``.
"""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.batching import BackendLimits, TokenBatch
from rfprm_runtime.cores import usable_cores
from rfprm_runtime.errors import BackendError
from rfprm_runtime.manifest import Backbone, Manifest
from rfprm_runtime.native.library import load_library
from rfprm_runtime.native.model_file import NativeModel, round_up

_ALIGNMENT = 64
_MIN_SPAN = 32
"""Tokens below which a further thread costs more than it brings."""


@dataclass(frozen=True)
class _Span:
    """Neighbouring tokens of one trace that one thread runs."""

    start: int
    stop: int


class NativeBackend:
    """Runs ``model.int16.safetensors``. The weights are mapped: processes share them.

    A trace runs on one thread or is split over several; the bits are the same.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        num_threads: int | None = None,
        kernels: str | None = None,
    ) -> None:
        """
        ``num_threads``: all usable cores by default. ``kernels``: ``avx512vnni``, ``avx2`` or
        ``generic``; the fastest that this processor runs by default. Scores of different
        kernels agree to rounding, those of one are the same to the bit.

        Raises :class:`BackendError` where there are no kernels for this machine and
        :class:`ArtifactError` where the file does not hold the manifest's model.
        """
        self._kernels, self._library = load_library(kernels)
        threads = usable_cores(num_threads)
        self._manifest = manifest
        self._model: NativeModel | None = NativeModel(path, manifest)
        self._page_positions = int(self._library.rfprm_page_positions())
        self._page_bytes = int(self._library.rfprm_page_bytes(self._model.structure))
        self._idle: deque[_Workspace] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rfprm-native")
        self.limits = BackendLimits(max_batch_size=1, max_concurrent_runs=threads)
        self.description = f"native {self._kernels} kernels, {threads} thread(s)"

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        model = self._model
        if model is None:
            raise BackendError("the backend was closed; load the scorer again")
        ids, markers = self._checked(batch)
        logits = np.empty((len(markers), self._manifest.head.num_labels), np.float32)
        spans = split_evenly(len(ids), threads, self._manifest.backbone)
        keep_layers = len(spans) > 1  # another thread is then a layer behind, in the same pages
        layers = self._manifest.backbone.num_layers if keep_layers else 1
        work = self._workspace()
        try:
            pages = work.pages(
                round_up(len(ids), self._page_positions) // self._page_positions,
                self._page_bytes * layers,
            )
            done = np.zeros(self._manifest.backbone.num_layers, np.int64) if keep_layers else None
            scratch = work.scratch(
                [
                    self._library.rfprm_scratch_bytes(model.structure, span.stop - span.start)
                    for span in spans
                ]
            )
            first_markers = np.searchsorted(markers, [span.start for span in spans])

            def run_span(number: int) -> None:
                span, begin = spans[number], first_markers[number]
                end = first_markers[number + 1] if number + 1 < len(spans) else len(markers)
                own = np.ascontiguousarray(markers[begin:end] - span.start)
                self._library.rfprm_run(
                    model.structure,
                    ids[span.start :].ctypes.data,
                    span.stop - span.start,
                    span.start,
                    pages.ctypes.data,
                    int(keep_layers),
                    own.ctypes.data,
                    len(own),
                    logits[begin:].ctypes.data,
                    scratch[number],
                    done.ctypes.data if done is not None else None,
                )

            # A span waits for the one before it, which was handed to the pool earlier or runs
            # in this thread: they cannot wait for each other.
            others: list[Future[None]] = [
                self._pool.submit(run_span, number) for number in range(1, len(spans))
            ]
            run_span(0)
            for future in others:
                future.result()
        finally:
            self._idle.append(work)
        return logits

    def _checked(self, batch: TokenBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What the kernels would read out of bounds is refused here."""
        ids = np.ascontiguousarray(batch.token_ids, dtype=np.int64)
        markers = np.ascontiguousarray(batch.marker_positions, dtype=np.int64)
        vocab_size, limit = self._manifest.backbone.vocab_size, self._manifest.max_positions
        if ids.ndim != 2 or len(ids) != 1 or not 0 < ids.shape[1] <= limit:
            raise BackendError(
                f"got token ids of shape {ids.shape}, expected [1, 1 to {limit}]: the native "
                "backend runs one row a call"
            )
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise BackendError(
                f"got token ids from {ids.min()} to {ids.max()}, the vocabulary has {vocab_size}"
            )
        ascending = bool((np.diff(markers) > 0).all())
        if len(markers) and not (ascending and markers[0] >= 0 and markers[-1] < ids.shape[1]):
            raise BackendError(
                f"got marker positions {markers.tolist()}, expected ascending ones below "
                f"{ids.shape[1]}"
            )
        return ids[0], markers

    def _workspace(self) -> _Workspace:
        try:
            return self._idle.pop()
        except IndexError:
            return _Workspace()

    def close(self) -> None:
        self._pool.shutdown()
        self._model = None
        self._idle.clear()


class _Workspace:
    """Memory of one run, kept for the next: it grows to the longest trace and stays there."""

    def __init__(self) -> None:
        self._pages = _aligned(0)
        self._scratch = _aligned(0)

    def pages(self, count: int, num_bytes: int) -> NDArray[np.uint64]:
        """Addresses of ``count`` pages."""
        if len(self._pages) < count * num_bytes:
            self._pages = _aligned(count * num_bytes)
        base = self._pages.ctypes.data
        return np.arange(base, base + count * num_bytes, num_bytes, dtype=np.uint64)

    def scratch(self, sizes: list[int]) -> list[int]:
        """Addresses of a stretch of memory for each of ``sizes``."""
        total = sum(sizes)
        if len(self._scratch) < total:
            self._scratch = _aligned(total)
        ends = np.cumsum([0, *sizes[:-1]])
        return [self._scratch.ctypes.data + int(offset) for offset in ends]


def _aligned(num_bytes: int) -> NDArray[Any]:
    """Zeroed bytes, lazily backed, at a multiple of 64."""
    memory = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + num_bytes]


def split_evenly(num_tokens: int, threads: int, shape: Backbone) -> list[_Span]:
    """Spans of about equal cost: later tokens attend to more, so later spans are shorter."""
    count = max(1, min(threads, num_tokens // _MIN_SPAN))
    if count == 1:
        return [_Span(0, num_tokens)]
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    products = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
    # In units of an integer product; one of attention is float32, half as fast, and does a
    # little more beside.
    cost = products + 2 * 2.5 * queries * np.arange(num_tokens)
    total = np.cumsum(cost)
    inner = np.searchsorted(total, total[-1] * np.arange(1, count) / count)
    bounds = [0, *(int(bound) for bound in inner), num_tokens]
    return [_Span(a, b) for a, b in itertools.pairwise(bounds) if a < b]
