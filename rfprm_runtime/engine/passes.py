"""Adapters that give every backend one interface: passes over the weights.

Knows which rows fit into a pass; knows no threads and no order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from rfprm_runtime.engine.backend import Backend, CachingBackend
from rfprm_runtime.engine.prefix import PrefixNode, plan_prefixes
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenRow, pad_batch


class Passes(Protocol):
    """A backend as the schedule sees it."""

    @property
    def limits(self) -> BackendLimits: ...

    @property
    def description(self) -> str: ...

    @property
    def keeps_pasts(self) -> bool:
        """Whether the backend honours an extension's ``keep``."""
        ...

    def plan(self, items: Sequence[Extension]) -> Iterator[PrefixNode]:
        """Prefix trees over ``items``; all items of a tree have the same past."""
        ...

    def fits(self, num_rows: int, longest: int, num_tokens: int, fair: int) -> bool:
        """Whether ``num_rows`` rows, with ``num_tokens`` together, fit one pass; ``fair``: each
        core's share of the tokens that are ready."""
        ...

    def threads_for(self, num_rows: int, available: int) -> int:
        """How many of the ``available`` cores a pass over ``num_rows`` rows can use."""
        ...

    def run(self, items: Sequence[Extension], threads: int) -> list[Extended]: ...


class PackedPasses:
    """A backend that continues from pasts: new tokens end to end, shared prefixes once."""

    keeps_pasts = True

    def __init__(self, backend: CachingBackend, *, share_prefixes: bool) -> None:
        self.limits, self.description = backend.limits, backend.description
        self._backend = backend
        self._share_prefixes = share_prefixes

    def plan(self, items: Sequence[Extension]) -> Iterator[PrefixNode]:
        if not self._share_prefixes:
            yield from _one_by_one(items)
            return
        by_past: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_past.setdefault(id(item.past), []).append(index)
        rows = [item.token_ids for item in items]
        for group in by_past.values():
            yield from plan_prefixes(rows, group)

    def fits(self, num_rows: int, longest: int, num_tokens: int, fair: int) -> bool:
        # Keep a pass short enough that the other cores do not wait for it in the end.
        return num_tokens <= min(self.limits.max_batch_tokens or 0, fair)

    def threads_for(self, num_rows: int, available: int) -> int:
        return available if num_rows == 1 else 1

    def run(self, items: Sequence[Extension], threads: int) -> list[Extended]:
        return self._backend.extend(items, threads)


class PaddedPasses:
    """A backend without a cache: whole rows, padded to one batch. No past is kept."""

    keeps_pasts = False

    def __init__(self, backend: Backend) -> None:
        self.limits, self.description = backend.limits, backend.description
        self._backend = backend

    def plan(self, items: Sequence[Extension]) -> Iterator[PrefixNode]:
        assert all(item.past is None for item in items), "this backend makes no pasts"
        return _one_by_one(items)

    def fits(self, num_rows: int, longest: int, num_tokens: int, fair: int) -> bool:
        return self.limits.take(num_rows, longest)

    def threads_for(self, num_rows: int, available: int) -> int:
        return available

    def run(self, items: Sequence[Extension], threads: int) -> list[Extended]:
        rows = [TokenRow(item.token_ids, item.marker_positions) for item in items]
        logits = self._backend.run(pad_batch(rows), threads)
        ends = np.cumsum([len(row.marker_positions) for row in rows])
        return [Extended(own, None) for own in np.split(logits, ends[:-1])]


def passes_of(backend: Backend, *, share_prefixes: bool) -> Passes:
    """The adapter for ``backend``. Only this function asks what a backend can do."""
    if isinstance(backend, CachingBackend):
        return PackedPasses(backend, share_prefixes=share_prefixes)
    return PaddedPasses(backend)


def _one_by_one(items: Sequence[Extension]) -> Iterator[PrefixNode]:
    for index, item in enumerate(items):
        yield PrefixNode(0, len(item.token_ids), [index], [index])
