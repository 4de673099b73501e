"""Lets running calls finish before something is closed. Knows calls, threads and processes only."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType

from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.running import check_can_be_asked, is_running

_POLL_SECONDS = 0.001


class Lifetime:
    """Knows which calls run, so that closing can wait for them."""

    def __init__(self, owner: str = "scorer", made: str = "loaded", remedy: str = "load") -> None:
        """``owner``: what closes. ``made`` and ``remedy``: how it came to be, and how to get a new
        one."""
        self._owner, self._made, self._remedy = owner, made, remedy
        self._process = os.getpid()
        # The outermost call of each thread. Changed in single steps, without a lock; a call that
        # an interrupt kept from removing itself is found to have ended.
        self._calls: dict[int, FrameType] = {}
        self._closed = False

    def call(self) -> _Call:
        """A context: until it ends, or the function in which it was entered, closing waits. A call
        inside another is part of it.

        Raises :class:`BackendError` after :meth:`close`, and in a process that was forked after
        loading: a fork has none of the threads, so nothing there would ever be scored.
        """
        return _Call(self)

    def close(self) -> bool:
        """Refuse new calls and wait for running ones. False in a fork, whose memory ends with it.

        Raises :class:`BackendError` if called from inside a call, which would wait for itself.
        """
        if os.getpid() != self._process:
            return False
        if self._own_call():
            raise BackendError(f"a {self._owner} cannot be closed from inside one of its own calls")
        self._closed = True
        while any(is_running(call) for call in list(self._calls.values())):
            time.sleep(_POLL_SECONDS)
        return True

    def _own_call(self) -> bool:
        """Whether this thread is in a call."""
        call = self._calls.get(threading.get_ident())
        return call is not None and is_running(call)

    def check_process(self) -> None:
        """Raises :class:`BackendError` in a process that was forked after loading."""
        if os.getpid() != self._process:
            raise BackendError(
                f"the {self._owner} was {self._made} before this process was forked; "
                f"{self._remedy} it here, or start processes with 'spawn'"
            )

    def enter(self, call: FrameType) -> bool:
        """Note that ``call`` runs; False if it is part of another one."""
        self.check_process()
        if self._own_call():
            return False
        self._calls[threading.get_ident()] = call  # first, so that closing sees it or it sees that
        if self._closed:
            self.leave()
            raise BackendError(f"the {self._owner} was closed; {self._remedy} it again")
        return True

    def leave(self) -> None:
        """Forget this thread's call."""
        self._calls.pop(threading.get_ident(), None)


class _Call:
    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._is_outermost = False

    def __enter__(self) -> None:
        call = sys._getframe(1)
        check_can_be_asked(call)
        self._is_outermost = self._lifetime.enter(call)

    def __exit__(self, *exc_info: object) -> None:
        if self._is_outermost:
            self._lifetime.leave()
