"""Engine: extensions in, logits and pasts out, on any backend.

plan → passes → results in order. Scorer and sessions talk to the engine and never to a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.engine.lifetime import Lifetime
from rfprm_runtime.engine.passes import passes_of
from rfprm_runtime.engine.past_cache import PastCache
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, Past
from rfprm_runtime.engine.schedule import Schedule
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.running import uninterrupted
from rfprm_runtime.ground.workers import Workers
from rfprm_runtime.types import Mode

DEFAULT_PAST_BYTES = 2**30


def _ignore(*happened: object) -> None:
    """Nobody wants to know."""


class Engine:
    """A backend with its threads, its pasts and its lifetime. Safe to share between threads."""

    def __init__(
        self,
        backend: Backend,
        mode: Mode = "auto",
        *,
        share_prefixes: bool = True,
        past_bytes: int = DEFAULT_PAST_BYTES,
    ) -> None:
        """``mode``: how cores are used (:data:`~rfprm_runtime.types.Mode`). ``share_prefixes``: run
        a prefix that extensions of a call share only once, if the backend can continue from a past.
        ``past_bytes``: how much :attr:`pasts` may hold."""
        self._backend = backend
        self._passes = passes_of(backend, share_prefixes=share_prefixes)
        self._mode: Mode = mode
        self._lifetime = Lifetime()
        self._workers = Workers(backend.limits.max_concurrent_runs, "rfprm")
        self.pasts = PastCache(past_bytes)
        """Pasts that later calls can continue from, under the caller's keys. Change them by
        :meth:`keep` and :meth:`drop`."""

    @property
    def keeps_pasts(self) -> bool:
        """Whether pasts can be kept: the backend makes them, and the cache may hold some."""
        return self._passes.keeps_pasts and self.pasts.max_bytes > 0

    @property
    def limits(self) -> BackendLimits:
        return self._backend.limits

    @property
    def description(self) -> str:
        """The backend's library, version and device, for people to read."""
        return self._backend.description

    def call(self) -> AbstractContextManager[None]:
        """A context for a call of several runs; :meth:`close` waits until it ends.

        Raises :class:`BackendError` after :meth:`close` and in a fork (:meth:`Lifetime.call`).
        """
        return self._lifetime.call()

    def run(
        self,
        extensions: Sequence[Extension],
        on_done: Callable[[int], object] = _ignore,
        on_kept: Callable[[int, Past], object] = _ignore,
    ) -> list[Extended]:
        """Run ``extensions``; returns their results in order.

        With ``mode="auto"`` a pass gets the cores that the others leave idle: a single pass gets
        all of them, and as many passes as cores get one each. ``on_done`` is called in this thread
        with the index of each extension when it is done, ``on_kept`` before that, in one of the
        engine's threads, with the index and the past of each that keeps it. After an error or
        Ctrl-C no new pass starts.

        Raises :class:`BackendError` for logits that are not finite, and what the backend raises.
        """
        with self.call():
            schedule = Schedule(
                self._passes, self._workers, extensions, on_done, on_kept, self._mode
            )
            return schedule.run()

    def num_past_bytes(self) -> int:
        """How much the pasts hold. Raises :class:`BackendError` in a fork."""
        self._lifetime.check_process()
        return uninterrupted(self.pasts.count_bytes)

    def keep(self, key: int, past: Past) -> bool:
        """Keep ``past`` under ``key``. False if it alone exceeds the budget. For threads that
        signals do not reach."""
        return self.pasts.put(key, past)

    def drop(self, key: int) -> None:
        """Free the past of ``key``, soon. A finalizer may call it, in any thread and process."""
        if self.pasts.drop(key):
            with suppress(BackendError):  # after closing and in a fork there is nothing to free
                self._workers.post(self.pasts.sweep)

    def close(self) -> None:
        """Wait for running calls, then free model and pasts. Calling it twice is fine.

        Raises :class:`BackendError` if called from inside a call.
        """
        if self._lifetime.close():
            self._workers.close(self._free)

    def _free(self) -> None:
        self.pasts.clear()
        self._backend.close()
