"""Threads that run jobs, and books that an interrupt cannot leave wrong."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from rfprm_runtime import BackendError
from rfprm_runtime.engine.lifetime import Lifetime
from rfprm_runtime.ground.running import is_running, uninterrupted
from rfprm_runtime.ground.whole_imports import import_whole
from rfprm_runtime.ground.workers import Workers


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_jobs_run_in_order_on_as_many_threads_as_there_are() -> None:
    workers, both, seen = Workers(2, "test"), threading.Barrier(2, timeout=30), []
    for _ in range(2):
        workers.post(both.wait)  # passes only if two threads are there
    for number in range(50):
        workers.post(lambda number=number: seen.append(number))  # type: ignore[misc]
    workers.close(lambda: seen.append(-1))
    assert sorted(seen) == list(range(-1, 50))
    assert seen[-1] == -1
    workers.close(lambda: seen.append(-2))
    assert seen[-1] == -1
    with pytest.raises(BackendError, match="have ended; load the scorer again"):
        workers.post(lambda: None)


def test_closing_from_many_threads_runs_the_last_job_once() -> None:
    workers, seen = Workers(3, "test"), []
    threads = [
        threading.Thread(target=workers.close, args=(lambda: seen.append(1),)) for _ in range(9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert seen == [1]


def test_closing_on_a_worker_does_not_wait_for_itself() -> None:
    workers, seen = Workers(1, "test"), threading.Event()
    workers.post(lambda: workers.close(seen.set))
    assert seen.wait(30)


def test_what_the_last_job_raises_reaches_the_one_who_closes() -> None:
    workers = Workers(1, "test")
    with pytest.raises(ZeroDivisionError):
        workers.close(lambda: 1 // 0)
    workers.close()


def test_threads_end_with_their_workers() -> None:
    workers, found = Workers(2, "test-ends"), []
    workers.post(lambda: found.append(threading.current_thread()))
    _wait_until(lambda: bool(found))
    del workers
    gc.collect()
    _wait_until(lambda: not found[0].is_alive())


def test_a_job_that_raises_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers, seen = Workers(1, "test"), []
    workers.post(lambda: 1 // 0)
    workers.post(lambda: seen.append(1))
    workers.close()
    assert seen == [1]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_has_no_workers() -> None:
    workers = Workers(1, "test")
    workers.post(lambda: None)
    child = os.fork()
    if not child:
        workers.close()
        try:
            workers.post(lambda: None)
        except BackendError as error:
            os._exit(0 if "which was forked" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    workers.close()


def test_a_call_runs_until_its_frame_has_ended() -> None:
    kept: list[FrameType] = []

    def call() -> None:
        kept.append(sys._getframe())
        assert is_running(kept[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        call()
    assert caught.traceback  # which holds the frame
    assert not is_running(kept[0])


def test_a_call_that_never_left_keeps_nobody_from_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an interrupt had struck while it did."""
    lifetime = Lifetime()

    def call() -> None:
        with lifetime.call():
            pass

    with monkeypatch.context() as patch:
        patch.setattr(Lifetime, "leave", lambda self: None)
        call()
    assert lifetime._calls
    assert lifetime.close()


def test_work_in_the_main_thread_runs_elsewhere_and_in_place_otherwise() -> None:
    assert uninterrupted(threading.get_ident) != threading.get_ident()
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(uninterrupted(threading.get_ident) == threading.get_ident())
    )
    thread.start()
    thread.join()
    assert found == [True]
    with pytest.raises(ZeroDivisionError):
        uninterrupted(lambda: 1 // 0)


def test_an_import_that_fails_says_so() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_whole("no_such_module")


def test_a_program_may_end_amid_work() -> None:
    """Without closing anything, while a batch waits for passes that are no longer taken."""
    code = """
from counting_backend import CountingBackend
from rfprm_runtime import Trajectory
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from tiny_models import scorer_on
batcher = MicroBatcher(scorer_on(CountingBackend(2)), max_wait_ms=0)
trace = Trajectory.build(question="q", steps=["so " * 20] * 5)
futures = [batcher.submit(trace) for _ in range(3000)]
futures[0].result()
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (found.returncode, found.stderr) == (0, "")
