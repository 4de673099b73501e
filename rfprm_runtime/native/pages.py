"""Keys and values of tokens that were run, in pages that pasts share.

Knows positions and bytes; what is in a page only the kernels know.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.batching import Extension

_ALIGNMENT = 64


class Page:
    """Keys and values of neighbouring positions, of every layer."""

    def __init__(self, num_bytes: int, content: Page | None = None) -> None:
        self.memory = _aligned(num_bytes)
        self.address = int(self.memory.ctypes.data)
        self.filled = 0
        """Positions that some past lays claim to; the ones after them are free."""
        if content is not None:
            self.memory[:] = content.memory

    @property
    def num_bytes(self) -> int:
        return len(self.memory)


@dataclass(frozen=True)
class NativePast:
    """Pages that hold at least ``num_tokens`` positions; only those are this past's own."""

    num_tokens: int
    blocks: tuple[Page, ...]


class Workspace:
    """Memory of one run, kept for the next: it grows to the longest trace and stays there."""

    def __init__(self) -> None:
        self._pages = _aligned(0)
        self._scratch = _aligned(0)

    def pages(self, count: int, num_bytes: int) -> NDArray[np.uint8]:
        """uint8 [count, num_bytes]"""
        if len(self._pages) < count * num_bytes:
            self._pages = _aligned(count * num_bytes)
        return self._pages[: count * num_bytes].reshape(count, num_bytes)

    def scratch(self, sizes: list[int]) -> list[int]:
        """Addresses of a stretch of memory for each of ``sizes``."""
        total = sum(sizes)
        if len(self._scratch) < total:
            self._scratch = _aligned(total)
        ends = np.cumsum([0, *sizes[:-1]])
        return [self._scratch.ctypes.data + int(offset) for offset in ends]


class PageAllocator:
    """Finds memory for the keys and values of new tokens."""

    def __init__(self, positions: int, layer_bytes: int, num_layers: int) -> None:
        """``positions`` of a page and its bytes in one layer."""
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
        # Pages that nobody will go on from are borrowed from the workspace.
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
            # The first that goes on from a half-filled page may write behind what is there;
            # those who come later get a copy.
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


def _aligned(num_bytes: int) -> NDArray[np.uint8]:
    """Bytes at a multiple of 64. They are zeroed: keys that are not there yet are read, though
    masked, and leftovers that read as denormal numbers would make that slow."""
    memory = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + num_bytes]


def _pages_of(num_tokens: int, page_positions: int) -> int:
    return -(-num_tokens // page_positions)
