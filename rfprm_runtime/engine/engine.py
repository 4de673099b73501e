"""Engine: extensions in, what came of them out, on whatever backend there is.

plan → passes → logits and pasts in order. Scorer and sessions talk to this and to no backend.
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
    """A backend with its threads, the pasts kept on it, and its end. Shared between threads."""

    def __init__(
        self,
        backend: Backend,
        mode: Mode = "auto",
        *,
        share_prefixes: bool = True,
        past_bytes: int = DEFAULT_PAST_BYTES,
    ) -> None:
        """``mode``: how cores are shared out (:data:`~rfprm_runtime.types.Mode`).
        ``share_prefixes``: tokens with which several extensions of a call begin run once, where the
        backend can continue from a past. ``past_bytes``: what :attr:`pasts` may hold."""
        self._backend = backend
        self._passes = passes_of(backend, share_prefixes=share_prefixes)
        self._mode: Mode = mode
        self._lifetime = Lifetime()
        self._pool = ThreadPoolExecutor(
            backend.limits.max_concurrent_runs, thread_name_prefix="rfprm"
        )
        self.pasts = PastCache(past_bytes)
        """Pasts to continue from in later calls, by keys of the caller's."""

    @property
    def keeps_pasts(self) -> bool:
        """Whether a past is worth asking for: the backend makes them, and there is room for one."""
        return self._passes.keeps_pasts and self.pasts.max_bytes > 0

    @property
    def limits(self) -> BackendLimits:
        return self._backend.limits

    @property
    def description(self) -> str:
        """Engine, version and device, for people."""
        return self._backend.description

    def call(self) -> AbstractContextManager[None]:
        """A call of several steps, for which :meth:`close` waits as a whole.

        Raises :class:`BackendError` after :meth:`close` and in a fork (:meth:`Lifetime.call`).
        """
        return self._lifetime.call()

    def run(
        self, extensions: Sequence[Extension], on_done: Callable[[int], object] | None = None
    ) -> list[Extended]:
        """Run ``extensions``; results in their order.

        With ``mode="auto"`` a pass gets the cores that the others leave idle: all of them where
        there is one, one where there are as many passes as cores. ``on_done`` is called, in this
        thread, with the index of each extension as it is done. After an error or Ctrl-C nothing
        new is begun.

        Raises :class:`BackendError` for logits that are not finite, and what the backend raises.
        """
        with self.call():
            on_done = on_done or (lambda index: None)
            return Schedule(self._passes, self._pool, extensions, on_done, self._mode).run()

    def close(self) -> None:
        """Wait for the calls under way and free model and pasts. Calling it twice is fine.

        Raises :class:`BackendError` from inside of a call.
        """
        if not self._lifetime.close():
            return
        self.pasts.clear()
        self._pool.shutdown()
        self._backend.close()
