"""The pasts of open sessions, within a budget of bytes. Knows no tokens and no steps."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from contextlib import suppress

from rfprm_runtime.engine.rows import Past


class PastCache:
    """Pasts by key. When they outgrow the budget, the least recently used ones are dropped.

    A block that several pasts share counts once. Callers read and drop in single steps; everything
    else takes a lock, so it belongs on threads that signals do not reach
    (:func:`~rfprm_runtime.ground.running.uninterrupted`).
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pasts: OrderedDict[int, Past] = OrderedDict()  # least recently used first
        self._num_holders: dict[int, int] = {}  # by the id of a block; pasts keep it alive
        self._num_bytes = 0
        self._dropped: deque[int] = deque()

    def get(self, key: int) -> Past | None:
        """The past of ``key``, from now on the most recently used. Takes no lock."""
        with suppress(KeyError):
            self._pasts.move_to_end(key)
        return self._pasts.get(key)

    def drop(self, key: int) -> bool:
        """Let the next :meth:`sweep` free the past of ``key``; whether there is one. Takes no lock,
        so a finalizer, which may interrupt anything, can call it."""
        if key not in self._pasts:
            return False
        self._dropped.append(key)
        return True

    def put(self, key: int, past: Past) -> bool:
        """Store ``past`` under ``key``, as the most recently used. False if it alone exceeds the
        budget."""
        with self._lock:
            self._clear_dropped()
            self._remove(key)
            self._pasts[key] = past
            for block in past.blocks:
                holders = self._num_holders.get(id(block), 0)
                self._num_holders[id(block)] = holders + 1
                self._num_bytes += 0 if holders else block.num_bytes
            while self._num_bytes > self.max_bytes:
                self._forget(self._pasts.popitem(last=False)[1])
            return key in self._pasts

    def sweep(self) -> None:
        """Free what was dropped."""
        with self._lock:
            self._clear_dropped()

    def clear(self) -> None:
        """Free everything."""
        with self._lock:
            while self._pasts:
                self._forget(self._pasts.popitem()[1])

    def count_bytes(self) -> int:
        """How much the pasts hold, without what was dropped."""
        with self._lock:
            self._clear_dropped()
            return self._num_bytes

    def _clear_dropped(self) -> None:
        while self._dropped:
            self._remove(self._dropped.popleft())

    def _remove(self, key: int) -> None:
        past = self._pasts.pop(key, None)
        if past is not None:
            self._forget(past)

    def _forget(self, past: Past) -> None:
        for block in past.blocks:
            self._num_holders[id(block)] -= 1
            if not self._num_holders[id(block)]:
                del self._num_holders[id(block)]
                self._num_bytes -= block.num_bytes
