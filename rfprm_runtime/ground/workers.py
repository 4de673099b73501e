"""Threads that run jobs in the order in which they came.

Unlike the pools of ``concurrent.futures``, whose locks stay taken when a signal handler raises at
the wrong moment: a caller hands a job over in one step of C code, so there is no such moment.
Signals reach the main thread only, so what happens on these threads runs to its end.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from rfprm_runtime.errors import BackendError

Job = Callable[[], object]
_POLL_SECONDS = 0.001
"""Between two looks at whether threads have ended. Only closing waits like this: it needs no lock,
so an interrupt leaves none behind."""
_logger = logging.getLogger(__name__)


class Workers:
    """Up to ``count`` threads. They start as jobs come, and end with :meth:`close`, with this
    object or with the program, always after the jobs."""

    def __init__(self, count: int, name: str) -> None:
        self._crew = _Crew(count, name)
        weakref.finalize(self, self._crew.jobs.put, None).atexit = False

    def post(self, job: Job) -> None:
        """Have ``job`` run. It reports its own errors; others are logged.

        Raises :class:`BackendError` in a fork, which has none of the threads, after :meth:`close`,
        and if the system allows no thread at all.
        """
        self._crew.post(job)

    def close(self, last: Job = lambda: None) -> None:
        """Let the threads end when all jobs are done, then run ``last``, once, and return.

        Raises what ``last`` raises. Calling it twice is fine, and completes a first call that an
        interrupt ended. In a fork it does nothing, and on one of the threads it does not wait.
        """
        self._crew.close(last)


class _Crew:
    """What the threads share. They do not know :class:`Workers`, which would never be freed."""

    def __init__(self, count: int, name: str) -> None:
        self._process = os.getpid()
        self._name = name
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()  # None: nothing follows
        # Any thread may change these, in single steps of C code (append, pop, remove).
        self._to_start = list(range(count))
        self._threads: list[int] = []
        self._may_close = [True]
        self._has_ended = False
        self._failures: list[BaseException] = []
        _crews.add(self)

    def post(self, job: Job) -> None:
        if os.getpid() != self._process:
            raise BackendError(
                f"the threads of {self._name} are not in this process, which was forked; load the "
                "scorer here, or start processes with 'spawn'"
            )
        if self._has_ended:
            raise BackendError(f"the threads of {self._name} have ended; load the scorer again")
        if self._to_start:
            self._start_another()
        self.jobs.put(job)

    def close(self, last: Job) -> None:
        if os.getpid() != self._process or self._has_ended:
            return
        self.post(lambda: self._close(last))
        while not self._has_ended:
            if threading.get_ident() in self._threads:
                return
            time.sleep(_POLL_SECONDS)
        with suppress(IndexError):
            raise self._failures.pop()

    def refuse(self) -> None:
        """Take no more jobs, because the program ends: threads that ran on would find the
        interpreter and its libraries taken apart."""
        self._has_ended = True
        self.jobs.put(None)

    def is_done(self) -> bool:
        """Whether the threads have ended, after :meth:`refuse`. Runs the jobs of those who did not
        notice it in time: other threads may wait for them."""
        if os.getpid() != self._process:
            return True
        if self._threads:
            return False
        with suppress(Empty):
            while True:
                self._run(self.jobs.get_nowait() or (lambda: None))
        return True

    def _start_another(self) -> None:
        try:
            _thread.start_new_thread(self._start, ())
        except RuntimeError as error:
            if not self._threads:
                raise BackendError(
                    f"the system allows no thread to score on ({error}); allow this process more"
                ) from error

    def _start(self) -> None:
        """Start one more worker. ``Thread.start`` takes locks, so this has a thread of its own."""
        try:
            number = self._to_start.pop()
        except IndexError:  # another call has started the last one
            return
        try:
            name = f"{self._name}-{number}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:  # the system allows no more threads, but this one is there
            self._work()

    def _work(self) -> None:
        own = threading.get_ident()
        self._threads.append(own)
        while (job := self.jobs.get()) is not None:
            self._run(job)
            del job  # and what it holds, while this thread waits for the next one
        self.jobs.put(None)  # for the other threads
        self._threads.remove(own)

    def _run(self, job: Job) -> None:
        try:
            job()
        except BaseException:
            _logger.exception("a job of %s failed", self._name)

    def _close(self, last: Job) -> None:
        try:
            self._may_close.pop()
        except IndexError:  # another call does it
            return
        self.jobs.put(None)
        while self._threads != [threading.get_ident()]:
            time.sleep(_POLL_SECONDS)
        try:
            last()
        except BaseException as error:
            self._failures.append(error)
        self._has_ended = True


_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    crews = list(_crews)
    for crew in crews:
        crew.refuse()
    while not min(map(_Crew.is_done, crews), default=True):  # asks all: one may wait for another
        time.sleep(_POLL_SECONDS)
