"""The pasts of open sessions, within a budget of bytes. Knows no tokens and no steps."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from rfprm_runtime.engine.rows import Past


class PastCache:
    """Pasts by key. When they outgrow the budget, the least recently used ones are dropped.

    A block that several pasts share counts once.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pasts: OrderedDict[int, Past] = OrderedDict()  # least recently used first
        self._num_holders: dict[int, int] = {}  # by the id of a block; pasts keep it alive
        self._num_bytes = 0
        self._dropped: deque[int] = deque()

    def get(self, key: int) -> Past | None:
        with self._lock:
            self._clear_dropped()
            if key in self._pasts:
                self._pasts.move_to_end(key)
            return self._pasts.get(key)

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
                self._remove(next(iter(self._pasts)))
            return key in self._pasts

    def drop(self, key: int) -> None:
        """Free the past of ``key``. Safe to call from a finalizer, which may interrupt anything."""
        self._dropped.append(key)
        if self._lock.acquire(blocking=False):
            try:
                self._clear_dropped()
            finally:
                self._lock.release()

    def clear(self) -> None:
        """Free everything."""
        with self._lock:
            for key in list(self._pasts):
                self._remove(key)

    @property
    def num_bytes(self) -> int:
        with self._lock:
            self._clear_dropped()
            return self._num_bytes

    def _clear_dropped(self) -> None:
        while self._dropped:
            self._remove(self._dropped.popleft())

    def _remove(self, key: int) -> None:
        past = self._pasts.pop(key, None)
        for block in past.blocks if past is not None else ():
            self._num_holders[id(block)] -= 1
            if not self._num_holders[id(block)]:
                del self._num_holders[id(block)]
                self._num_bytes -= block.num_bytes
