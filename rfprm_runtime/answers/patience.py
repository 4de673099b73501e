"""How long the next comparison may take, given how much time late ones have cost."""

from __future__ import annotations

import threading
import time

_LEAST_SECONDS = 0.25
"""What a comparison gets when others have used up the time; most take a hundredth of it."""
_SHARE_FOR_THE_LATE = 0.05


class Patience:
    """An allowance of seconds for those that come late. Any thread may use it."""

    def __init__(self, timeout: float) -> None:
        self._timeout, self._most = timeout, 2 * timeout
        self._left, self._at = self._most, time.monotonic()
        self._lock = threading.Lock()

    def seconds(self) -> float:
        with self._lock:
            now = time.monotonic()
            grown = self._left + (now - self._at) * _SHARE_FOR_THE_LATE
            self._left, self._at = min(self._most, grown), now
            return min(self._timeout, max(self._left, _LEAST_SECONDS))

    def spend(self, seconds: float) -> None:
        with self._lock:
            self._left = max(0.0, self._left - seconds)
