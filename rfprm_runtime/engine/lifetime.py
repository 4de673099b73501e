"""Lets running calls finish before something is closed. Knows calls, threads and processes only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rfprm_runtime.errors import BackendError


class Lifetime:
    """Counts running calls, so that closing can wait for them."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._calls: dict[int, int] = {}  # running, by thread
        self._closed = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count the block as a running call; a call inside another is part of it.

        Raises :class:`BackendError` after :meth:`close`, and in a process that was forked after
        loading: a fork has none of the threads, so nothing there would ever be scored.
        """
        if os.getpid() != self._process:
            raise BackendError(
                "the scorer was loaded before this process was forked; load it here, or start "
                "processes with 'spawn'"
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
        """Refuse new calls and wait for running ones. False if it was closed before, and in a fork,
        whose memory ends with it.

        Raises :class:`BackendError` if called from inside a call, which would wait for itself.
        """
        if os.getpid() != self._process:
            return False
        with self._changed:
            if threading.get_ident() in self._calls:
                raise BackendError("a scorer cannot be closed from inside one of its own calls")
            was_closed, self._closed = self._closed, True
            self._changed.wait_for(lambda: not self._calls)
        return not was_closed
