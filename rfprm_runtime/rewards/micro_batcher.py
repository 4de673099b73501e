"""MicroBatcher: gathers single trajectories from many callers into batches for one scorer.

submit → wait for others → score_batch → hand out. Knows futures, but no tokens and no models.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal, Protocol

from rfprm_runtime.errors import (
    BackendError,
    InvalidTrajectoryError,
    RfprmError,
)
from rfprm_runtime.ground.arguments import check_not_negative, check_whole
from rfprm_runtime.types import Overflow, Trajectory, TrajectoryScore


class BatchScorer(Protocol):
    """The part of :class:`~rfprm_runtime.Scorer` that the batcher needs."""

    def score_batch(
        self,
        trajectories: Sequence[Trajectory | RfprmError],
        *,
        overflow: Overflow,
        on_error: Literal["return"],
    ) -> list[TrajectoryScore | RfprmError]: ...


_Waiting = tuple[Trajectory | RfprmError, "Future[TrajectoryScore]"]


class MicroBatcher:
    """Scores requests from many threads in shared batches. Safe to share between threads.

    A worker thread takes the waiting requests, waits up to ``max_wait_ms`` for more, and scores
    them in one call; requests that arrive meanwhile form the next batch. Scores are those of
    ``scorer.score_batch``.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        *,
        max_batch: int = 64,
        max_wait_ms: float = 5.0,
        overflow: Overflow = "error",
    ) -> None:
        """Closing the batcher leaves the scorer open: it belongs to whoever opened it.

        Raises ``ValueError`` for a batch below 1 or a negative wait.
        """
        check_whole("max_batch", max_batch)
        check_not_negative("max_wait_ms", max_wait_ms)
        self._scorer = scorer
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000.0
        self._overflow: Overflow = overflow
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        # Guards the queue: a request put behind the None that ends the worker would wait forever.
        self._lock = threading.Lock()
        self._closed = False
        # A daemon, so a program that forgets to close it can still exit.
        self._worker = threading.Thread(target=self._work, name="rfprm-batcher", daemon=True)
        self._worker.start()

    def submit(self, trajectory: Trajectory | RfprmError) -> Future[TrajectoryScore]:
        """Return a future of the score at once; ``asyncio.wrap_future`` makes it awaitable.

        The future holds the error of a trajectory that cannot be scored, or what the scorer raised
        if its whole batch failed. An error may be submitted too, in place of a trajectory that
        could not be read. A future cancelled before its batch began is not scored.
        Raises :class:`BackendError` if the batcher is closed and :class:`InvalidTrajectoryError`
        for anything but a trajectory or an error.
        """
        # Checked here, because the scorer's message would name a place in a batch nobody knows.
        if not isinstance(trajectory, (Trajectory, RfprmError)):
            raise InvalidTrajectoryError(
                f"got {type(trajectory).__name__}, expected a Trajectory; build one with "
                "Trajectory(question=…, steps=[…]) or Trajectory.from_text(question, text)"
            )
        future: Future[TrajectoryScore] = Future()
        with self._lock:
            if self._closed:
                raise BackendError("the micro-batcher was closed; create a new one")
            self._waiting.put((trajectory, future))
        return future

    def score(self, trajectory: Trajectory) -> TrajectoryScore:
        """Wait for the score. Raises what the future of :meth:`submit` holds."""
        return self.submit(trajectory).result()

    def close(self) -> None:
        """Score what was submitted, then end the thread. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        # Future callbacks run on the worker, which cannot wait for itself.
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> MicroBatcher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._collect()
            batch = [item for item in batch if item[1].set_running_or_notify_cancel()]
            if batch:
                self._score(batch)

    def _collect(self) -> tuple[list[_Waiting], bool]:
        """The next batch, and whether more may follow."""
        first = self._waiting.get()
        if first is None:
            return [], False
        batch = [first]
        deadline = time.monotonic() + self._max_wait
        while len(batch) < self._max_batch:
            try:
                item = self._waiting.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if item is None:
                return batch, False
            batch.append(item)
        return batch, True

    def _score(self, batch: list[_Waiting]) -> None:
        try:
            results = self._scorer.score_batch(
                [trajectory for trajectory, _ in batch], overflow=self._overflow, on_error="return"
            )
            if len(results) != len(batch):
                raise BackendError(
                    f"the scorer returned {len(results)} scores for {len(batch)} traces"
                )
        except BaseException as error:  # whatever it is, the waiting callers must get it
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, RfprmError):
                future.set_exception(result)
            else:
                future.set_result(result)
