"""Decides in which order, and on how many cores, extensions run. Knows passes and no backends."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.passes import Passes
from rfprm_runtime.engine.prefix import PrefixNode
from rfprm_runtime.engine.rows import Extended, Extension, Past
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.running import Outcome, report, result_of
from rfprm_runtime.ground.workers import Workers
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


class _Pass(NamedTuple):
    """One pass over the weights: its tasks, and on how many threads it runs."""

    tasks: list[_Task]
    threads: int


class Schedule:
    """Runs the ``items`` of one call, with as many passes at once as the backend allows.

    All of this is the caller's own, so an interrupt harms nobody else. The passes run on the
    workers and own what they need: those that have begun end by themselves.
    """

    def __init__(
        self,
        passes: Passes,
        workers: Workers,
        items: Sequence[Extension],
        on_done: Callable[[int], object],
        on_kept: Callable[[int, Past], object],
        mode: Mode,
    ) -> None:
        """``on_done`` is called in the caller's thread with each finished item's number,
        ``on_kept`` on a worker, before that, with the past of an item that is to be kept."""
        self._passes, self._workers, self._items = passes, workers, items
        self._on_done, self._on_kept, self._mode = on_done, on_kept, mode
        self._cores = self._free = passes.limits.max_concurrent_runs
        self._ready: list[_Task] = []  # a heap
        self._waiting = 0  # tokens of the ready tasks
        self._logits: list[list[NDArray[np.float32]]] = [[] for _ in items]
        self._done: dict[int, Extended] = {}
        self._ended: SimpleQueue[tuple[_Pass, Outcome]] = SimpleQueue()
        self._has_stopped = False
        for root in passes.plan(items):
            self._add(root, items[root.rows[0]].past, depth=0)

    def run(self) -> list[Extended]:
        """The results of the items, in order. After an error or Ctrl-C no new pass starts."""
        running = 0
        try:
            while self._ready or running:
                running += self._start_passes(alone=not running)
                running -= self._finish_passes()
        finally:
            self._has_stopped = True
        return [self._done[index] for index in range(len(self._items))]

    def _start_passes(self, *, alone: bool) -> int:
        started = 0
        while self._ready and self._free > 0:
            tasks, threads = self._next_pass(alone=alone and not started)
            if not tasks:
                break
            self._free -= threads
            self._workers.post(partial(self._work, _Pass(tasks, threads)))
            started += 1
        return started

    def _finish_passes(self) -> int:
        """Wait for a pass to end, and finish all that have ended."""
        finished = 0
        while not finished or not self._ended.empty():
            done, outcome = self._ended.get()
            self._free += done.threads
            for task, extended in zip(done.tasks, result_of(outcome), strict=True):
                self._finish(task, extended)
            finished += 1
        return finished

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

    def _work(self, one: _Pass) -> None:
        """What a worker does."""
        if not self._has_stopped:
            report(partial(self._run_pass, one), lambda outcome: self._ended.put((one, outcome)))

    def _run_pass(self, one: _Pass) -> list[Extended]:
        results = self._passes.run([self._extension(task) for task in one.tasks], one.threads)
        for result in results:
            if not np.isfinite(result.logits).all():
                raise BackendError(
                    f"{self._passes.description} returned logits that are not finite; the model "
                    "is damaged or overflows its precision, export it again"
                )
        for task, result in zip(one.tasks, results, strict=True):
            for row in task.node.ending:
                if self._items[row].keep and result.past is not None and not self._has_stopped:
                    self._on_kept(row, result.past)
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
        markers = every[0] if len(every) == 1 else _union(every)
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


def _union(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """All values of ``parts``, ascending, each once. ``np.unique`` would import ``numpy.ma`` during
    the first score (see ground/whole_imports.py)."""
    values = np.sort(np.concatenate(parts))
    is_first = np.ones(len(values), bool)
    is_first[1:] = values[1:] != values[:-1]
    return values[is_first]
