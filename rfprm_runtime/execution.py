"""Runs token rows on a backend: planned, concurrently, results in order. Knows no scores."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, as_completed, wait
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.backends.base import Backend, CachingBackend
from rfprm_runtime.batching import Extended, Extension, Past, pad_batch, plan_batches
from rfprm_runtime.encoding import TokenRow
from rfprm_runtime.errors import BackendError
from rfprm_runtime.prefix import PrefixNode, plan_prefixes
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
    _check_finite(logits, backend)
    ends = np.cumsum([len(row.marker_positions) for row in rows])
    return np.split(logits, ends[:-1])


def _check_finite(logits: NDArray[np.float32], backend: Backend) -> None:
    if not np.isfinite(logits).all():
        raise BackendError(
            f"{backend.description} returned logits that are not finite; the model or its "
            "precision is damaged, export it again"
        )


def run_extensions(
    backend: CachingBackend,
    pool: Executor,
    items: Sequence[Extension],
    on_done: Callable[[int, Extended], object],
    mode: Mode = "auto",
) -> None:
    """Like :func:`run_rows`, but tokens that rows have in common are run once.

    ``on_done`` is called, in this thread, with the index of every item and what became of it.
    """
    _SharedRun(backend, pool, items, on_done, mode).run()


@dataclass(order=True)
class _Task:
    """A node of the prefix tree whose past is known."""

    # Depth first, so that few pasts are alive at once; then by what is still to come.
    urgency: tuple[int, int, int]
    node: PrefixNode = field(compare=False)
    past: Past | None = field(compare=False)
    markers: NDArray[np.int64] = field(compare=False)  # of all its rows, from their begin


class _SharedRun:
    def __init__(
        self,
        backend: CachingBackend,
        pool: Executor,
        items: Sequence[Extension],
        on_done: Callable[[int, Extended], object],
        mode: Mode,
    ) -> None:
        self._backend, self._pool, self._items = backend, pool, items
        self._on_done, self._mode = on_done, mode
        self._cores = self._free = backend.limits.max_concurrent_runs
        self._ready: list[_Task] = []  # a heap
        self._waiting = 0  # tokens of the ready tasks
        self._logits: list[list[NDArray[np.float32]]] = [[] for _ in items]
        by_past: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_past.setdefault(id(item.past), []).append(index)
        rows = [item.token_ids for item in items]
        for group in by_past.values():
            for root in plan_prefixes(rows, group):
                self._add(root, items[group[0]].past, depth=0)

    def run(self) -> None:
        running: dict[Future[list[Extended]], tuple[list[_Task], int]] = {}
        try:
            while self._ready or running:
                while self._ready and self._free > 0:
                    tasks, threads = self._next_pass(alone=not running)
                    if not tasks:
                        break
                    self._free -= threads
                    running[self._pool.submit(self._run_pass, tasks, threads)] = tasks, threads
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    tasks, threads = running.pop(future)
                    self._free += threads
                    for task, extended in zip(tasks, future.result(), strict=True):
                        self._finish(task, extended)
        finally:
            for future in running:
                future.cancel()

    def _next_pass(self, *, alone: bool) -> tuple[list[_Task], int]:
        """Tasks that fill one pass over the weights, and the threads for it."""
        if self._mode == "latency":
            # One row after the other, each on all cores.
            return ([self._take()], self._free) if alone else ([], 0)
        # Short stretches fill a pass together, but none is so long that at the end the other
        # cores wait for it.
        fair = -(-self._waiting // self._cores)
        room = min(self._backend.limits.max_batch_tokens or 0, fair)
        tasks = [self._take()]
        room -= tasks[0].node.num_tokens
        while self._ready and self._ready[0].node.num_tokens <= room:
            tasks.append(self._take())
            room -= tasks[-1].node.num_tokens
        if self._mode == "auto" and len(tasks) == 1:
            return tasks, max(1, self._free // (1 + len(self._ready)))
        return tasks, 1

    def _take(self) -> _Task:
        task = heapq.heappop(self._ready)
        self._waiting -= task.node.num_tokens
        return task

    def _run_pass(self, tasks: list[_Task], threads: int) -> list[Extended]:
        results = self._backend.extend([self._extension(task) for task in tasks], threads)
        for result in results:
            _check_finite(result.logits, self._backend)
        return results

    def _extension(self, task: _Task) -> Extension:
        node = task.node
        return Extension(
            token_ids=self._items[node.rows[0]].token_ids[node.begin : node.end],
            marker_positions=task.markers - node.begin,
            past=task.past,
            keep=bool(node.children) or any(self._items[row].keep for row in node.ending),
        )

    def _finish(self, task: _Task, extended: Extended) -> None:
        node = task.node
        for row in node.rows:
            own = self._markers(row, node)
            self._logits[row].append(extended.logits[np.searchsorted(task.markers, own)])
        for row in node.ending:
            logits = np.concatenate(self._logits[row])
            self._on_done(row, Extended(logits, extended.past if self._items[row].keep else None))
        for child in node.children:
            self._add(child, extended.past, depth=1 - task.urgency[0])

    def _add(self, node: PrefixNode, past: Past | None, *, depth: int) -> None:
        markers = np.unique(np.concatenate([self._markers(row, node) for row in node.rows]))
        longest = max(len(self._items[row].token_ids) for row in node.rows) - node.begin
        urgency = (-depth, -longest, node.rows[0])
        self._waiting += node.num_tokens
        heapq.heappush(self._ready, _Task(urgency, node, past, markers))

    def _markers(self, row: int, node: PrefixNode) -> NDArray[np.int64]:
        markers = self._items[row].marker_positions
        low, high = np.searchsorted(markers, [node.begin, node.end])
        return markers[low:high]
