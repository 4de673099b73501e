"""Engine: extensions in, logits and pasts out, on any backend.

plan → passes → results in order. Scorer and sessions talk to the engine and never to a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.engine.lifetime import Lifetime
from rfprm_runtime.engine.passes import passes_of
from rfprm_runtime.engine.past_cache import PastCache
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension
from rfprm_runtime.engine.schedule import Schedule
from rfprm_runtime.types import Mode

DEFAULT_PAST_BYTES = 2**30


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
        self._pool = ThreadPoolExecutor(
            backend.limits.max_concurrent_runs, thread_name_prefix="rfprm"
        )
        self.pasts = PastCache(past_bytes)
        """Pasts that later calls can continue from, under the caller's keys."""

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
        self, extensions: Sequence[Extension], on_done: Callable[[int], object] | None = None
    ) -> list[Extended]:
        """Run ``extensions``; returns their results in order.

        With ``mode="auto"`` a pass gets the cores that the others leave idle: a single pass gets
        all of them, and as many passes as cores get one each. ``on_done`` is called in this thread
        with the index of each extension when it is done. After an error or Ctrl-C no new pass
        starts.

        Raises :class:`BackendError` for logits that are not finite, and what the backend raises.
        """
        with self.call():
            on_done = on_done or (lambda index: None)
            return Schedule(self._passes, self._pool, extensions, on_done, self._mode).run()

    def close(self) -> None:
        """Wait for running calls, then free model and pasts. Calling it twice is fine.

        Raises :class:`BackendError` if called from inside a call.
        """
        if not self._lifetime.close():
            return
        self.pasts.clear()
        self._pool.shutdown()
        self._backend.close()
