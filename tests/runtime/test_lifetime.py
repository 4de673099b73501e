"""Closing a scorer that others are using, and using one that a fork has copied."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from counting_backend import CountingBackend
from rfprm_runtime import BackendError, Scorer, Trajectory
from rfprm_runtime.engine.lifetime import Lifetime
from rfprm_runtime.engine.rows import Extended, Extension
from tiny_models import fake_scorer, scorer_on

TRACES = [Trajectory.build(question=f"q {i}", steps=["so", f"then {i}"]) for i in range(20)]


class _Slow(CountingBackend):
    """Says when it has begun, and continues when it is told to."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.closed = False

    def extend(self, extensions: list[Extension], threads: int = 1) -> list[Extended]:  # type: ignore[override]
        self.begun.set()
        assert self.go_on.wait(30)
        assert not self.closed
        return super().extend(extensions, threads)

    def close(self) -> None:
        self.closed = True


def test_closing_waits_for_a_call_with_many_passes() -> None:
    backend = _Slow()
    scorer = scorer_on(backend)
    found: list[object] = []
    calling = threading.Thread(target=lambda: found.append(scorer.score_batch(TRACES)))
    calling.start()
    assert backend.begun.wait(30)
    closing = threading.Thread(target=scorer.close)
    closing.start()
    while not scorer._engine._lifetime._closed:
        time.sleep(0.001)
    with pytest.raises(BackendError, match="was closed; load it again"):
        scorer.score_batch(TRACES)
    assert not backend.closed
    backend.go_on.set()
    calling.join(30)
    closing.join(30)
    assert backend.closed
    with fake_scorer() as other:
        assert found == [other.score_batch(TRACES)]


def test_a_closed_scorer_opens_no_session_and_keeps_no_past() -> None:
    scorer = scorer_on(CountingBackend(2))
    session = scorer.session("q")
    session.extend(["so"])
    assert scorer.session_bytes > 0
    scorer.close()
    assert scorer.session_bytes == 0
    with pytest.raises(BackendError, match="was closed"):
        scorer.session("q")
    with pytest.raises(BackendError, match="was closed"):
        session.extend(["then"])


def test_closing_from_inside_a_call_is_refused() -> None:
    with fake_scorer() as scorer:
        with pytest.raises(BackendError, match="from inside one of its own calls"):
            scorer.score_batch(TRACES, on_scored=lambda count: scorer.close())
        assert len(scorer.score_batch(TRACES)) == len(TRACES)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_says_that_the_scorer_has_to_be_loaded_there() -> None:
    """It has none of the threads, so a call would wait for ever."""
    with fake_scorer() as scorer:
        scorer.score_batch(TRACES)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            message = _error_of(scorer)
            os.write(write, message.encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert "loaded before this process was forked" in pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        assert len(scorer.score_batch(TRACES)) == len(TRACES)


def _error_of(scorer: Scorer) -> str:
    try:
        scorer.score_batch(TRACES)
    except BackendError as error:
        scorer.close()
        return str(error)
    return "no error"


def test_calls_within_calls_count_once_each() -> None:
    lifetime = Lifetime()
    with lifetime.call(), lifetime.call():
        pass
    assert lifetime.close()
    assert lifetime.close()


def test_a_caller_cannot_change_the_scores_of_a_session() -> None:
    with scorer_on(CountingBackend(2)) as scorer, scorer.session("q") as session:
        session.extend(["so", "then"])
        expected = session.step_scores.copy()
        score = session.score()
        score.step_scores[:] = 0
        np.testing.assert_array_equal(session.step_scores, expected)
        with pytest.raises(ValueError, match="read-only"):
            session.step_scores[:] = 0
