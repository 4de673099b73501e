"""Who is still running: function calls, and a thread that signals do not reach.

A signal handler may raise after any bytecode of the main thread, ``finally`` and ``with`` included.
So the main thread takes none of our locks, and what it leaves behind counts for nothing once its
call has ended. What takes a lock goes through :func:`uninterrupted`.
"""

from __future__ import annotations

import _thread
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
Outcome = tuple[Any, BaseException | None]
"""What a function returned, or the error that it raised."""
_LOOK_SECONDS = 1.0
"""An arrival wakes the one who waits; this is for an arrival that an exception swallowed."""
_GENERATOR_FLAGS = 0x20 | 0x80 | 0x200
"""``co_flags`` of generators, coroutines and asynchronous generators (see ``inspect``)."""


def is_running(call: FrameType) -> bool:
    """Whether a function call, known by its frame, has not ended yet. Any thread may ask.

    The interpreter itself keeps these books, so no exception can leave an ended call in them. The
    frame of an ended call loses its variables.
    """
    try:
        call.clear()  # refuses a frame that is executing
    except RuntimeError:
        return True
    return False


def check_can_be_asked(call: FrameType) -> None:
    """A generator's frame cannot be asked: :func:`is_running` would end one that is suspended."""
    assert not call.f_code.co_flags & _GENERATOR_FLAGS, f"{call.f_code.co_name} is a generator"


def uninterrupted(
    work: Callable[[], Result], give_up: Callable[[], object] | None = None
) -> Result:
    """What ``work`` returns or raises; once begun, it ends, whatever signals arrive meanwhile.

    In the main thread it runs on a thread of its own. An exception from a signal handler then ends
    the wait but not the work. Work that may take long comes with ``give_up``, which makes it end
    soon, and the exception waits for that.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    context, outcomes = contextvars.copy_context(), _Outcomes()
    has_begun = False
    try:
        has_begun = _begin(lambda: report(lambda: context.run(work), outcomes.put))
        if not has_begun:
            return work()
        outcomes.wait()
    except BaseException:
        if give_up is not None:
            give_up()
            if has_begun:
                outcomes.wait()
        raise
    result: Result = result_of(outcomes.found[0])
    return result


def _begin(call: Callable[[], object]) -> bool:
    """Start ``call`` on a thread of its own. False if there can be none: the system has a limit,
    and an interpreter that ends starts no more."""
    try:
        _thread.start_new_thread(call, ())
    except RuntimeError:
        return False
    return True


class _Outcomes:
    """Where the outcome arrives. It stays there: what comes out of a queue is lost if an exception
    strikes before it has a name."""

    def __init__(self) -> None:
        self.found: list[Outcome] = []
        self._arrivals: SimpleQueue[None] = SimpleQueue()

    def put(self, outcome: Outcome) -> None:
        self.found.append(outcome)
        self._arrivals.put(None)

    def wait(self) -> None:
        while not self.found:
            with suppress(Empty):
                self._arrivals.get(timeout=_LOOK_SECONDS)


def report(work: Callable[[], Any], put: Callable[[Outcome], object]) -> None:
    """Pass what ``work`` returns or raises to ``put``."""
    outcome: Outcome
    try:
        outcome = work(), None
    except BaseException as error:  # whatever it is, somebody waits for it
        outcome = None, error
    put(outcome)


def result_of(outcome: Outcome) -> Any:
    """What :func:`report` passed on: returns the result or raises the error."""
    result, error = outcome
    if error is None:
        return result
    try:
        raise error
    finally:
        del outcome, error  # with the error's traceback they would form a cycle
