"""Keys and values of tokens that have run, in pages that pasts share.

Knows positions and bytes; only the kernels know what is in a page.
"""

from __future__ import annotations

import itertools
import mmap
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.rows import Extension

_KEPT_BYTES = 16 * 2**20
"""How much of each kind of memory a workspace keeps for the next run. Traces of 2,000 tokens fit;
for longer ones, allocating is cheap next to running."""


class Page:
    """Keys and values of neighbouring positions, of every layer."""

    def __init__(self, num_bytes: int, content: Page | None = None) -> None:
        self.memory = _allocate(num_bytes)
        self.address = int(self.memory.ctypes.data)
        self.filled = 0
        """Positions that some past claims; those after them are free."""
        if content is not None:
            self.memory[:] = content.memory

    @property
    def num_bytes(self) -> int:
        return len(self.memory)


@dataclass(frozen=True)
class NativePast:
    """Pages with ``num_tokens`` positions or more; only the first ``num_tokens`` are the past's."""

    num_tokens: int
    blocks: tuple[Page, ...]


class Workspace:
    """Memory of one run. Some is kept for the next, so short runs find theirs ready."""

    def __init__(self) -> None:
        self._pages = _allocate(0)
        self._scratch = _allocate(0)

    def pages(self, count: int, num_bytes: int) -> NDArray[np.uint8]:
        """uint8 [count, num_bytes]"""
        if len(self._pages) < count * num_bytes:
            self._pages = _allocate(count * num_bytes)
        return self._pages[: count * num_bytes].reshape(count, num_bytes)

    def scratch(self, sizes: list[int]) -> list[int]:
        """Addresses of a stretch of memory for each of ``sizes``."""
        total = sum(sizes)
        if len(self._scratch) < total:
            self._scratch = _allocate(total)
        ends = np.cumsum([0, *sizes[:-1]])
        return [self._scratch.ctypes.data + int(offset) for offset in ends]

    def trim(self) -> None:
        """After a run: give back what only a long trace needed."""
        if len(self._pages) > _KEPT_BYTES:
            self._pages = _allocate(0)
        if len(self._scratch) > _KEPT_BYTES:
            self._scratch = _allocate(0)


class PageAllocator:
    """Finds memory for the keys and values of new tokens."""

    def __init__(self, positions: int, layer_bytes: int, num_layers: int) -> None:
        """``positions`` and ``layer_bytes``: of a page, the bytes in one layer."""
        self._positions = positions
        self._layer_bytes = layer_bytes
        self._page_bytes = layer_bytes * num_layers
        self._claims = threading.Lock()

    def lay_out(
        self, items: list[Extension], work: Workspace, *, keep_layers: bool
    ) -> tuple[list[NDArray[np.uint64]], list[NativePast | None]]:
        """The addresses of each item's pages, and the pasts to keep."""
        pasts = [self._grow(item) if item.keep else None for item in items]
        shared = [item.num_past_tokens // self._positions for item in items]
        counts = [
            _pages_of(item.num_past_tokens + len(item.token_ids), self._positions) for item in items
        ]
        # Pages that no past keeps are borrowed from the workspace.
        borrowed = iter(
            work.pages(
                sum(
                    count - full
                    for count, full, past in zip(counts, shared, pasts, strict=True)
                    if past is None
                ),
                self._page_bytes if keep_layers else self._layer_bytes,
            )
        )
        tables = []
        for item, past, count, full in zip(items, pasts, counts, shared, strict=True):
            if past is not None:
                tables.append(np.array([page.address for page in past.blocks], np.uint64))
                continue
            own = list(itertools.islice(borrowed, count - full))
            addresses = [int(page.ctypes.data) for page in own]
            if isinstance(item.past, NativePast):
                addresses = [page.address for page in item.past.blocks[:full]] + addresses
                if item.past.num_tokens % self._positions:
                    own[0][:] = item.past.blocks[full].memory
            tables.append(np.array(addresses, np.uint64))
        return tables, pasts

    def _grow(self, item: Extension) -> NativePast:
        """A past with room for the new tokens; full pages are shared with the one before."""
        size, start = self._positions, item.num_past_tokens
        stop = start + len(item.token_ids)
        full, used = divmod(start, size)
        old = item.past.blocks if isinstance(item.past, NativePast) else ()
        blocks = list(old[:full])
        if used:
            tail = old[full]
            # The first extension of a half-filled page may write after what is there; later ones
            # get a copy.
            with self._claims:
                is_free = tail.filled == used
                if is_free:
                    tail.filled = min(size, used + stop - start)
            if not is_free:
                tail = Page(self._page_bytes, tail)
            blocks.append(tail)
        while len(blocks) < _pages_of(stop, size):
            blocks.append(Page(self._page_bytes))
        blocks[-1].filled = stop - (len(blocks) - 1) * size
        return NativePast(stop, tuple(blocks))


def _allocate(num_bytes: int) -> NDArray[np.uint8]:
    """Zeroed bytes at a multiple of 64, in a mapping of their own.

    A mapping goes back to the system when it is freed. Heap memory, among small things that live
    longer, would not, and a long run would grow. Zeroed because keys that are not there yet are
    read, though masked, and leftovers that read as denormal numbers would make that slow.
    """
    return np.frombuffer(mmap.mmap(-1, max(1, num_bytes)), np.uint8, num_bytes)


def _pages_of(num_tokens: int, page_positions: int) -> int:
    return -(-num_tokens // page_positions)
