"""Many callers with one trajectory each: batches, errors, closing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from rfprm_runtime import (
    BackendError,
    InvalidTrajectoryError,
    RfprmError,
    Scorer,
    TraceTooLongError,
    Trajectory,
)
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from rfprm_runtime.types import TrajectoryScore
from tiny_models import fake_scorer


def _trajectory(index: int) -> Trajectory:
    return Trajectory(question=f"What is {index}?", steps=[f"step {index}", "so"])


class GatedScorer:
    """A real scorer behind a gate: batches wait until it opens, and their sizes are recorded."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.gate, self.entered = scorer, threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def score_batch(
        self, trajectories: Sequence[Trajectory], **options: Any
    ) -> list[TrajectoryScore | RfprmError]:
        self.sizes.append(len(trajectories))
        self.entered.set()
        assert self.gate.wait(timeout=60)
        return self.scorer.score_batch(trajectories, **options)


def test_many_threads_get_the_scores_of_score_batch() -> None:
    with fake_scorer() as scorer, MicroBatcher(scorer, max_batch=16) as batcher:
        trajectories = [_trajectory(index) for index in range(200)]
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(batcher.score, trajectories))
        assert found == scorer.score_batch(trajectories)


def test_requests_during_a_batch_form_the_next_batch() -> None:
    with fake_scorer() as scorer:
        gated = GatedScorer(scorer)
        with MicroBatcher(gated, max_batch=8, max_wait_ms=0.0) as batcher:
            first = batcher.submit(_trajectory(0))
            assert gated.entered.wait(timeout=60)
            others = [batcher.submit(_trajectory(index)) for index in range(1, 12)]
            gated.gate.set()
            assert [future.result().num_tokens > 0 for future in [first, *others]] == [True] * 12
        assert gated.sizes == [1, 8, 3]


def test_an_error_may_be_submitted_in_place_of_a_trajectory() -> None:
    unread = InvalidTrajectoryError("no text")
    with fake_scorer() as scorer, MicroBatcher(scorer, max_wait_ms=50) as batcher:
        futures = [batcher.submit(item) for item in (_trajectory(0), unread, _trajectory(1))]
        assert futures[1].exception() is unread
        assert futures[2].result() == scorer.score_batch([_trajectory(1)])[0]


def test_one_bad_trajectory_fails_alone() -> None:
    with fake_scorer(max_positions=80) as scorer, MicroBatcher(scorer, max_wait_ms=50) as batcher:
        good = batcher.submit(_trajectory(1))
        bad = batcher.submit(Trajectory(question="q", steps=["x" * 200]))
        assert good.result() == scorer.score_batch([_trajectory(1)])[0]
        with pytest.raises(TraceTooLongError, match="80 positions"):
            bad.result()
        assert batcher.score(_trajectory(2)).num_tokens > 0


def test_overflow_is_passed_on() -> None:
    long = Trajectory(question="q", steps=["x" * 40] * 4)
    with (
        fake_scorer(max_positions=100) as scorer,
        MicroBatcher(scorer, overflow="window") as batcher,
    ):
        assert batcher.score(long).windowed_from is not None


def test_a_failed_batch_fails_for_every_waiting_caller() -> None:
    scorer = fake_scorer()
    gated = GatedScorer(scorer)
    with MicroBatcher(gated, max_wait_ms=200) as batcher:
        futures = [batcher.submit(_trajectory(index)) for index in range(3)]
        scorer.close()
        gated.gate.set()
        for future in futures:
            with pytest.raises(BackendError, match="scorer was closed"):
                future.result(timeout=60)


def test_closing_scores_what_was_submitted_and_takes_no_more() -> None:
    with fake_scorer() as scorer:
        gated = GatedScorer(scorer)
        batcher = MicroBatcher(gated, max_wait_ms=0.0)
        futures = [batcher.submit(_trajectory(index)) for index in range(5)]
        closing = threading.Thread(target=batcher.close)
        closing.start()
        gated.gate.set()
        closing.join(timeout=60)
        assert not closing.is_alive()
        assert all(future.done() for future in futures)
        with pytest.raises(BackendError, match="micro-batcher was closed"):
            batcher.submit(_trajectory(9))
        batcher.close()
        assert scorer.score("q", steps=["the scorer is still open"]).num_tokens > 0


def test_a_callback_may_close_the_batcher() -> None:
    with fake_scorer() as scorer:
        batcher = MicroBatcher(scorer)
        closed = threading.Event()
        future = batcher.submit(_trajectory(0))
        future.add_done_callback(lambda _: (batcher.close(), closed.set()))
        assert closed.wait(timeout=60)


def test_a_cancelled_trajectory_is_not_scored() -> None:
    with fake_scorer() as scorer:
        gated = GatedScorer(scorer)
        with MicroBatcher(gated, max_wait_ms=0.0) as batcher:
            batcher.submit(_trajectory(0))
            assert gated.entered.wait(timeout=60)
            unwanted, wanted = (batcher.submit(_trajectory(index)) for index in (1, 2))
            assert unwanted.cancel()
            gated.gate.set()
            wanted.result(timeout=60)
            with pytest.raises(CancelledError):
                unwanted.result()
        assert gated.sizes == [1, 1]


def test_futures_can_be_awaited() -> None:
    async def ask(batcher: MicroBatcher) -> list[TrajectoryScore]:
        futures = [batcher.submit(_trajectory(index)) for index in range(8)]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    with fake_scorer() as scorer, MicroBatcher(scorer) as batcher:
        assert asyncio.run(ask(batcher)) == scorer.score_batch([_trajectory(i) for i in range(8)])


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"max_wait_ms": -1.0}])
def test_invalid_limits_are_refused(options: dict[str, Any]) -> None:
    with fake_scorer() as scorer, pytest.raises(ValueError, match="expected"):
        MicroBatcher(scorer, **options)
