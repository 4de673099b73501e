"""A few child processes of one kind: a call that hangs keeps one of them, and the others go on."""

from __future__ import annotations

import os
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rfprm_runtime.answers.killable_worker import BoundedWorker, Request
from rfprm_runtime.ground.running import uninterrupted

_LOOK_SECONDS = 0.2
"""How often a call that waits for a child looks whether it was given up."""


class WorkerPool:
    """Up to ``size`` children, which start as calls overlap. Any thread may call it."""

    def __init__(
        self, function: str, timeout: float, *, size: int, warm_up: str | None = None
    ) -> None:
        """As :class:`~rfprm_runtime.answers.killable_worker.BoundedWorker`; raises like it."""
        self._workers = [BoundedWorker(function, timeout, warm_up=warm_up) for _ in range(size)]
        self._idle: dict[int, queue.LifoQueue[BoundedWorker]] = {}
        """By process: in a fork nobody gives back what another thread has taken."""

    @property
    def size(self) -> int:
        return len(self._workers)

    @property
    def num_timeouts(self) -> int:
        return sum(worker.num_timeouts for worker in self._workers)

    def __call__(self, *arguments: Any, seconds: float | None = None) -> Any:
        """What a child answers; None if it raised or ran out of time. Waits for a child."""
        call = _Call()
        return uninterrupted(lambda: self._serve(call, arguments, seconds), call.give_up)

    def start(self, count: int) -> None:
        """Have ``count`` children running, so that no call waits for their imports. For threads
        that signals do not reach."""
        workers = self._workers[: max(1, min(count, self.size))]
        with ThreadPoolExecutor(len(workers)) as threads:
            list(threads.map(BoundedWorker.start, workers))

    def close(self) -> None:
        """End the children. Safe to call twice."""
        for worker in self._workers:
            worker.close()

    def _serve(self, call: _Call, arguments: tuple[Any, ...], seconds: float | None) -> Any:
        idle = self._idle_here()
        worker = call.wait_for(idle)
        if worker is None:
            return None
        try:
            call.worker, call.request = worker, worker.request(*arguments, seconds=seconds)
            return None if call.is_given_up else worker.ask(call.request)
        finally:
            idle.put(worker)

    def _idle_here(self) -> queue.LifoQueue[BoundedWorker]:
        """The children without a call. The one that was busy last comes first, so that calls one
        after the other start a single child."""
        pid = os.getpid()
        if pid not in self._idle:
            idle: queue.LifoQueue[BoundedWorker] = queue.LifoQueue()
            for worker in reversed(self._workers):
                idle.put(worker)
            return self._idle.setdefault(pid, idle)
        return self._idle[pid]


class _Call:
    """A call on its way to a child."""

    def __init__(self) -> None:
        self.is_given_up = False
        self.worker: BoundedWorker | None = None
        self.request: Request | None = None

    def give_up(self) -> None:
        """After Ctrl-C nobody reads what the child still answers."""
        self.is_given_up = True
        if self.worker is not None and self.request is not None:
            self.worker.give_up(self.request)

    def wait_for(self, idle: queue.LifoQueue[BoundedWorker]) -> BoundedWorker | None:
        while not self.is_given_up:
            try:
                return idle.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
        return None
