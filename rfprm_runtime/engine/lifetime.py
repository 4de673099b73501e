"""Who may still use what is about to be closed. Knows calls, threads and processes only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rfprm_runtime.errors import BackendError


class Lifetime:
    """Counts the calls that are under way, so that closing can wait for them."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._calls: dict[int, int] = {}  # under way, by thread
        self._closed = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call for as long as the block lasts. One inside another is part of it.

        Raises :class:`BackendError` after :meth:`close`, and in a process that was forked after
        loading: threads do not come along, so nothing there would ever be scored.
        """
        if os.getpid() != self._process:
            raise BackendError(
                "the scorer was loaded before this process was forked from another; load it here, "
                "or start processes with 'spawn'"
            )
        thread = threading.get_ident()
        with self._changed:
            if self._closed and thread not in self._calls:
                raise BackendError("the scorer was closed; load it again")
            self._calls[thread] = self._calls.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._calls[thread] -= 1
                if not self._calls[thread]:
                    del self._calls[thread]
                    self._changed.notify_all()

    def close(self) -> bool:
        """Refuse what comes from now on and wait for what is under way. False where it was closed
        before, or in a fork, whose memory goes with it.

        Raises :class:`BackendError` from inside of a call, which would wait for itself.
        """
        if os.getpid() != self._process:
            return False
        with self._changed:
            if threading.get_ident() in self._calls:
                raise BackendError("a scorer cannot be closed from inside of one of its own calls")
            was_closed, self._closed = self._closed, True
            self._changed.wait_for(lambda: not self._calls)
        return not was_closed
