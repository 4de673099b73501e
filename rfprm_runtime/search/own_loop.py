"""Runs a coroutine to its end, or to the end of its cancellation, on an event loop of its own.

Not ``asyncio.run`` in the main thread: a signal handler that raises can leave the loop waiting for
a task that it has lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  asyncio.to_thread would import it during a search
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from rfprm_runtime.ground.running import uninterrupted

Result = TypeVar("Result")


def run_on_own_loop(make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """What the coroutine returns or raises. An exception from a signal handler cancels it first."""
    loop = _OwnLoop()
    return uninterrupted(lambda: asyncio.run(loop.follow(make())), loop.cancel)


class _OwnLoop:
    def __init__(self) -> None:
        self._cancel: Callable[[], object] | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._cancel is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._cancel()

    async def follow(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.ensure_future(coroutine)
        loop = asyncio.get_running_loop()
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        if self._is_cancelled:
            task.cancel()
        return await task
