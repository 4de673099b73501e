"""MicroBatcher: many callers with one trajectory each, one scorer that likes many at once.

submit → wait for others → score_batch → hand out. Knows futures, no tokens and no models.
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
    InvalidArgumentError,
    InvalidTrajectoryError,
    RfprmError,
)
from rfprm_runtime.types import Overflow, Trajectory, TrajectoryScore


class BatchScorer(Protocol):
    """What is needed of a :class:`~rfprm_runtime.Scorer`."""

    def score_batch(
        self,
        trajectories: Sequence[Trajectory | RfprmError],
        *,
        overflow: Overflow,
        on_error: Literal["return"],
    ) -> list[TrajectoryScore | RfprmError]: ...


_Waiting = tuple[Trajectory | RfprmError, "Future[TrajectoryScore]"]


class MicroBatcher:
    """Scores what many threads ask for in common batches. Safe to share between threads.

    One thread takes what has been asked for, waits ``max_wait_ms`` at most for more, and scores it
    in one call; what comes meanwhile is the next batch. Scores are those of ``scorer.score_batch``.
    """

    def __init__(
        self,
        scorer: BatchScorer,
        *,
        max_batch: int = 64,
        max_wait_ms: float = 5.0,
        overflow: Overflow = "error",
    ) -> None:
        """The scorer stays open when the batcher is closed: it belongs to whoever opened it.

        Raises ``ValueError`` for a batch of less than 1 or a negative wait.
        """
        if max_batch < 1 or max_wait_ms < 0:
            raise InvalidArgumentError(
                f"max_batch is {max_batch} and max_wait_ms {max_wait_ms}, expected at least 1 and "
                "at least 0"
            )
        self._scorer = scorer
        self._max_batch = max_batch
        self._max_wait = max_wait_ms / 1000.0
        self._overflow: Overflow = overflow
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        # Nothing may be put behind the None that ends the worker: it would wait for ever.
        self._lock = threading.Lock()
        self._closed = False
        # A daemon, so that a program which forgets to close it can still end.
        self._worker = threading.Thread(target=self._work, name="rfprm-batcher", daemon=True)
        self._worker.start()

    def submit(self, trajectory: Trajectory | RfprmError) -> Future[TrajectoryScore]:
        """A future of the score, at once. ``asyncio.wrap_future`` makes it awaitable.

        It holds the error of a trajectory that cannot be scored (an error may also be submitted,
        of one that could not be read), and what the scorer raised where a whole batch failed. One
        that was cancelled before its batch began is not scored.
        Raises :class:`BackendError` where the batcher is closed and
        :class:`InvalidTrajectoryError` for what is no trajectory.
        """
        # Here, where no place in a batch is named.
        if not isinstance(trajectory, (Trajectory, RfprmError)):
            raise InvalidTrajectoryError(
                f"got {type(trajectory).__name__}, expected a Trajectory; build one with "
                "Trajectory(question=…, steps=[…]) or Trajectory.from_text(question, text)"
            )
        future: Future[TrajectoryScore] = Future()
        with self._lock:
            if self._closed:
                raise BackendError("the micro-batcher was closed; make a new one")
            self._waiting.put((trajectory, future))
        return future

    def score(self, trajectory: Trajectory) -> TrajectoryScore:
        """The score, once it is there. Raises what the future of :meth:`submit` holds."""
        return self.submit(trajectory).result()

    def close(self) -> None:
        """Score what was asked for, then end the thread. Calling it twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        # A callback of a future runs on the worker, which cannot wait for itself.
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> MicroBatcher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _work(self) -> None:
        going = True
        while going:
            batch, going = self._collect()
            batch = [item for item in batch if item[1].set_running_or_notify_cancel()]
            if batch:
                self._score(batch)

    def _collect(self) -> tuple[list[_Waiting], bool]:
        """What is to be scored next, and whether there may be more."""
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
                raise BackendError(f"the scorer gave {len(results)} scores for {len(batch)} traces")
        except BaseException as error:  # whatever it is, those who wait must hear of it
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, RfprmError):
                future.set_exception(result)
            else:
                future.set_result(result)
