"""MicroBatcher: gathers single trajectories from many callers into batches for one scorer.

submit → wait for others → score_batch → hand out. Knows futures, but no tokens and no models.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Literal, NamedTuple, Protocol

from rfprm_runtime.engine.lifetime import Lifetime
from rfprm_runtime.errors import (
    UNSCORABLE,
    BackendError,
    InvalidTrajectoryError,
    RfprmError,
)
from rfprm_runtime.ground.arguments import check_not_negative, check_whole
from rfprm_runtime.ground.workers import Workers
from rfprm_runtime.types import Overflow, Trajectory, TrajectoryScore

_HELD_SECONDS = 1.0
_LOOK_SECONDS = 0.001


class BatchScorer(Protocol):
    """The part of :class:`~rfprm_runtime.Scorer` that the batcher needs."""

    def score_batch(
        self,
        trajectories: Sequence[Trajectory | RfprmError],
        *,
        overflow: Overflow,
        on_error: Literal["return"],
    ) -> list[TrajectoryScore | RfprmError]: ...


class _Request(NamedTuple):
    """A trajectory and where its score goes."""

    trajectory: Trajectory | RfprmError
    begins: Callable[[], bool]
    """Says that its batch begins; False if nobody wants the score any more."""
    settle: Callable[[TrajectoryScore | BaseException], object]


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
        self._lifetime = Lifetime("micro-batcher", made="created", remedy="create")
        self._waiting: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._worker = Workers(1, "rfprm-batcher")

    def submit(self, trajectory: Trajectory | RfprmError) -> Future[TrajectoryScore]:
        """Return a future of the score at once; ``asyncio.wrap_future`` makes it awaitable.

        The future holds the error of a trajectory that cannot be scored, or what the scorer raised
        if its whole batch failed. An error may be submitted too, in place of a trajectory that
        could not be read. A future cancelled before its batch began is not scored.
        Raises :class:`BackendError` if the batcher is closed or was created before a fork, and
        :class:`InvalidTrajectoryError` for anything but a trajectory or an error.
        """
        future: Future[TrajectoryScore] = Future()
        self._enqueue(_Request(trajectory, partial(_begins, future), partial(_settle, future)))
        return future

    def score(self, trajectory: Trajectory) -> TrajectoryScore:
        """Wait for the score. Raises what the future of :meth:`submit` holds."""
        [found] = self.score_all([trajectory])
        if isinstance(found, BaseException):
            raise found
        return found

    def score_all(
        self, trajectories: Sequence[Trajectory | RfprmError]
    ) -> list[TrajectoryScore | RfprmError]:
        """Wait for the score of each; the error takes the place of one that cannot be scored.
        Raises what the scorer raised if a whole batch failed, and like :meth:`submit`."""
        # A queue for each: unlike a future, it has no lock that an interrupt could leave taken.
        settled: list[queue.SimpleQueue[TrajectoryScore | BaseException]] = []
        for trajectory in trajectories:
            settled.append(queue.SimpleQueue())
            self._enqueue(_Request(trajectory, lambda: True, settled[-1].put))
        found = [scores.get() for scores in settled]
        for item in found:
            if isinstance(item, BaseException) and not isinstance(item, UNSCORABLE):
                raise item
        return found  # type: ignore[return-value]

    def close(self) -> None:
        """Score what was submitted, then end the thread. May be called twice."""
        if self._lifetime.close():
            self._worker.close()

    def __enter__(self) -> MicroBatcher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _enqueue(self, request: _Request) -> None:
        # Checked here, because the scorer's message would name a place in a batch nobody knows.
        if not isinstance(request.trajectory, (Trajectory, RfprmError)):
            raise InvalidTrajectoryError(
                f"got {type(request.trajectory).__name__}, expected a Trajectory; build one with "
                "Trajectory(question=…, steps=[…]) or Trajectory.from_text(question, text)"
            )
        with self._lifetime.call():
            self._waiting.put(request)
            self._worker.post(self._work)

    def _work(self) -> None:
        """Score the next batch, if an earlier one has not taken this request already."""
        batch = [request for request in self._collect() if request.begins()]
        if batch:
            self._score(batch)

    def _collect(self) -> Iterator[_Request]:
        # Not get(timeout=…): a SimpleQueue whose time is up at the wrong moment waits for the next
        # item instead (CPython takes the negative rest for no limit).
        deadline = time.monotonic() + self._max_wait
        while 0 < self._waiting.qsize() < self._max_batch:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(left, _LOOK_SECONDS))
        with suppress(queue.Empty):
            for _ in range(self._max_batch):
                yield self._waiting.get_nowait()

    def _score(self, batch: list[_Request]) -> None:
        try:
            results = self._scorer.score_batch(
                [request.trajectory for request in batch],
                overflow=self._overflow,
                on_error="return",
            )
            if len(results) != len(batch):
                raise BackendError(
                    f"the scorer returned {len(results)} scores for {len(batch)} traces"
                )
        except BaseException as error:  # whatever it is, the waiting callers must get it
            for request in batch:
                request.settle(error)
            return
        for request, result in zip(batch, results, strict=True):
            request.settle(result)


def _begins(future: Future[TrajectoryScore]) -> bool:
    with _held(future) as is_held:
        return is_held and future.set_running_or_notify_cancel()


def _settle(future: Future[TrajectoryScore], found: TrajectoryScore | BaseException) -> None:
    with _held(future) as is_held:
        if not is_held:
            return
        if isinstance(found, BaseException):
            future.set_exception(found)
        else:
            future.set_result(found)


@contextmanager
def _held(future: Future[TrajectoryScore]) -> Iterator[bool]:
    """Whether the future's lock could be taken. Its other holders need microseconds, so one that
    keeps it was interrupted, and nobody else may wait for it."""
    is_held = future._condition.acquire(timeout=_HELD_SECONDS)
    try:
        yield is_held
    finally:
        if is_held:
            future._condition.release()
