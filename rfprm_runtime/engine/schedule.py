"""Decides in which order, and on how many cores, extensions run. Knows passes and no backends."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.passes import Passes
from rfprm_runtime.engine.prefix import PrefixNode
from rfprm_runtime.engine.rows import Extended, Extension, Past
from rfprm_runtime.errors import BackendError
from rfprm_runtime.types import Mode


@dataclass(order=True)
class _Task:
    """A node of the prefix tree whose past is known."""

    # Depth first, so that few pasts are alive at once; then the longest remainder first, which
    # keeps padding small and lets short rows fill the cores at the end.
    urgency: tuple[int, int, int]
    node: PrefixNode = field(compare=False)
    past: Past | None = field(compare=False)
    markers: NDArray[np.int64] = field(compare=False)  # of all its rows, counted from their start


class Schedule:
    """Runs the ``items`` of one call, with as many passes at once as the backend allows."""

    def __init__(
        self,
        passes: Passes,
        pool: Executor,
        items: Sequence[Extension],
        on_done: Callable[[int], object],
        mode: Mode,
    ) -> None:
        self._passes, self._pool, self._items = passes, pool, items
        self._on_done, self._mode = on_done, mode
        self._cores = self._free = passes.limits.max_concurrent_runs
        self._ready: list[_Task] = []  # a heap
        self._waiting = 0  # tokens of the ready tasks
        self._logits: list[list[NDArray[np.float32]]] = [[] for _ in items]
        self._done: dict[int, Extended] = {}
        for root in passes.plan(items):
            self._add(root, items[root.rows[0]].past, depth=0)

    def run(self) -> list[Extended]:
        """The results of the items, in order. After an error or Ctrl-C no new pass starts."""
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
        return [self._done[index] for index in range(len(self._items))]

    def _next_pass(self, *, alone: bool) -> tuple[list[_Task], int]:
        """The tasks that fill one pass over the weights, and how many threads run it."""
        in_turn = self._mode == "latency"  # one pass after the other, each on all cores
        if in_turn and not alone:
            return [], 0
        fair = 0 if in_turn else -(-self._waiting // self._cores)
        tasks = [self._take()]
        longest = total = tasks[0].node.num_tokens
        while self._ready:
            total += self._ready[0].node.num_tokens
            if not self._passes.fits(len(tasks) + 1, longest, total, fair):
                break
            tasks.append(self._take())
        if in_turn:
            return tasks, self._free
        if self._mode == "auto":
            share = max(1, self._free // (1 + len(self._ready)))
            return tasks, self._passes.threads_for(len(tasks), share)
        return tasks, 1

    def _take(self) -> _Task:
        task = heapq.heappop(self._ready)
        self._waiting -= task.node.num_tokens
        return task

    def _run_pass(self, tasks: list[_Task], threads: int) -> list[Extended]:
        results = self._passes.run([self._extension(task) for task in tasks], threads)
        for result in results:
            if not np.isfinite(result.logits).all():
                raise BackendError(
                    f"{self._passes.description} returned logits that are not finite; the model "
                    "is damaged or overflows its precision, export it again"
                )
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
        if len(node.rows) == 1:  # most nodes: all markers are the row's own
            self._logits[node.rows[0]].append(extended.logits)
        else:
            for row in node.rows:
                own = self._markers(row, node)
                self._logits[row].append(extended.logits[np.searchsorted(task.markers, own)])
        for row in node.ending:
            parts = self._logits[row]
            logits = parts[0] if len(parts) == 1 else np.concatenate(parts)
            past = extended.past if self._items[row].keep else None
            self._done[row] = Extended(logits, past)
            self._on_done(row)
        for child in node.children:
            self._add(child, extended.past, depth=1 - task.urgency[0])

    def _add(self, node: PrefixNode, past: Past | None, *, depth: int) -> None:
        every = [self._markers(row, node) for row in node.rows]
        markers = every[0] if len(every) == 1 else np.unique(np.concatenate(every))
        longest = max(len(self._items[row].token_ids) for row in node.rows) - node.begin
        urgency = (-depth, -longest, node.rows[0])
        self._waiting += node.num_tokens
        heapq.heappush(self._ready, _Task(urgency, node, past, markers))

    def _markers(self, row: int, node: PrefixNode) -> NDArray[np.int64]:
        item = self._items[row]
        markers = item.marker_positions
        if node.num_tokens == len(item.token_ids):  # the whole row
            return markers
        low, high = markers.searchsorted((node.begin, node.end))
        return markers[low:high]
