"""Runs token rows on a backend: planned, concurrently, results in order. Knows no scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, as_completed

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.backends.base import Backend
from rfprm_runtime.batching import pad_batch, plan_batches
from rfprm_runtime.encoding import TokenRow
from rfprm_runtime.errors import BackendError
from rfprm_runtime.types import Mode


def run_rows(
    backend: Backend,
    pool: Executor,
    rows: Sequence[TokenRow],
    on_row_done: Callable[[int], object],
    mode: Mode = "auto",
) -> list[NDArray[np.float32]]:
    """Logits float32 [num_markers, num_labels] of each row, in the order of ``rows``.

    With ``mode="auto"`` a batch gets the cores that the others leave idle: all of them where
    there is one batch, one where there are as many batches as cores.
    ``on_row_done`` is called, in this thread, with the index of every row that was run. After an
    error or Ctrl-C nothing new is begun.
    """
    batches = plan_batches([row.num_tokens for row in rows], backend.limits)
    cores = backend.limits.max_concurrent_runs
    results: dict[int, NDArray[np.float32]] = {}
    if mode == "latency":
        for batch in batches:
            for index, logits in zip(
                batch, _run_batch(backend, [rows[index] for index in batch], cores), strict=True
            ):
                results[index] = logits
                on_row_done(index)
        return [results[index] for index in range(len(rows))]
    threads = max(1, cores // max(1, len(batches))) if mode == "auto" else 1
    futures: dict[Future[list[NDArray[np.float32]]], list[int]] = {
        pool.submit(_run_batch, backend, [rows[index] for index in batch], threads): batch
        for batch in batches
    }
    try:
        for future in as_completed(futures):
            for index, logits in zip(futures[future], future.result(), strict=True):
                results[index] = logits
                on_row_done(index)
    finally:
        for future in futures:
            future.cancel()
    return [results[index] for index in range(len(rows))]


def _run_batch(backend: Backend, rows: list[TokenRow], threads: int) -> list[NDArray[np.float32]]:
    logits = backend.run(pad_batch(rows), threads)
    if not np.isfinite(logits).all():
        raise BackendError(
            f"{backend.description} returned logits that are not finite for a batch of "
            f"{len(rows)} rows; the model or its precision is damaged, export it again"
        )
    ends = np.cumsum([len(row.marker_positions) for row in rows])
    return np.split(logits, ends[:-1])
