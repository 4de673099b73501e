"""Where everything is in one pass, worked out on the host once for all layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rfprm_runtime.backends.packed_torch.pasts import JoinedPasts, TorchPast
from rfprm_runtime.engine.rows import Extension

_ALIGNED = 4  # of int32: sections begin at 16 bytes, which kernels are compiled for


@dataclass(frozen=True)
class PassShape:
    """The sizes of a pass. Passes of one shape can be the same CUDA graph."""

    tokens: int
    rows: int
    markers: int
    kept: int
    """Tokens whose keys and values are wanted afterwards."""
    past_tokens: int
    """Of all distinct pasts; 0 if no row has one."""
    keys: int
    """Tokens that all rows attend to; 0 without pasts, when these are just the new tokens."""
    longest_query: int
    longest_key: int

    @property
    def sections(self) -> tuple[int, ...]:
        """Sizes of the indices: ids, positions, markers, query ends, key ends, keys, kept."""
        ends = self.rows + 1
        return self.tokens, self.tokens, self.markers, ends, ends, self.keys, self.kept

    def rounded_up(self) -> PassShape:
        """One of few shapes, with room for this one. Tokens, which cost time, are rounded up by an
        eighth at most; sizes that only bound a launch or an index, to powers of two."""
        return PassShape(
            tokens=_eighths(self.tokens),
            rows=_power(self.rows),
            markers=_power(self.markers),
            kept=_eighths(self.kept) if self.kept else 0,
            past_tokens=_power(self.past_tokens) if self.past_tokens else 0,
            keys=_power(self.keys) if self.keys else 0,
            longest_query=_power(self.longest_query),
            longest_key=_power(self.longest_key),
        )


def _power(size: int) -> int:
    return 1 << max(3, (size - 1).bit_length())


def _eighths(size: int) -> int:
    step = max(8, _power(size) // 16)
    return -(-size // step) * step


class PassPlan:
    """The new tokens of all rows, end to end."""

    def __init__(self, items: Sequence[Extension]) -> None:
        self.items = items
        new = np.array([len(item.token_ids) for item in items])
        past = np.array([item.num_past_tokens for item in items])
        self.query_ends, self.key_ends = _ends(new), _ends(new + past)  # int64 [rows + 1]
        self.pasts = JoinedPasts([past_of(item) for item in items])
        self.shape = PassShape(
            tokens=int(new.sum()),
            rows=len(items),
            markers=sum(len(item.marker_positions) for item in items),
            kept=sum(len(item.token_ids) for item in items if item.keep),
            past_tokens=self.pasts.num_tokens,
            keys=int((new + past).sum()) if self.pasts.num_tokens else 0,
            longest_query=int(new.max()),
            longest_key=int((new + past).max()),
        )

    def indices(self, shape: PassShape) -> NDArray[np.int32]:
        """The sections end to end, each filled up to its size in ``shape``: added tokens belong to
        no row, and added rows are empty."""
        items, begins = self.items, self.query_ends[:-1]
        sections: list[tuple[list[NDArray[np.int64]], int]] = [
            ([item.token_ids for item in items], 0),
            (
                [np.arange(i.num_past_tokens, i.num_past_tokens + len(i.token_ids)) for i in items],
                0,
            ),
            ([item.marker_positions + b for item, b in zip(items, begins, strict=True)], 0),
            ([self.query_ends], int(self.query_ends[-1])),
            ([self.key_ends], int(self.key_ends[-1])),
            (self._keys(shape.past_tokens) if shape.past_tokens else [], 0),
            ([np.arange(begin, end) for item, begin, end in self._bounds() if item.keep], 0),
        ]
        indices = np.empty(sum(map(_aligned, shape.sections)), np.int32)
        begin = 0
        for (parts, filler), size in zip(sections, shape.sections, strict=True):
            section = indices[begin : begin + _aligned(size)]
            used = sum(map(len, parts))
            if parts:
                np.concatenate(parts, out=section[:used], casting="same_kind")
            section[used:] = filler
            begin += len(section)
        return indices

    def _keys(self, first: int) -> list[NDArray[np.int64]]:
        """Where the keys of each row are: those of its past, then its own, which begin at
        ``first``, behind all pasts."""
        return [
            part
            for places, (_, begin, end) in zip(self.pasts.places, self._bounds(), strict=True)
            for part in (places, np.arange(first + begin, first + end))
        ]

    def _bounds(self) -> list[tuple[Extension, int, int]]:
        bounds = itertools.pairwise(self.query_ends.tolist())
        return [(item, b, e) for item, (b, e) in zip(self.items, bounds, strict=True)]


def split_indices(indices: Tensor, shape: PassShape) -> list[Tensor]:
    """The sections of :meth:`PassPlan.indices`, on whatever device they are now."""
    parts = torch.split(indices, [_aligned(size) for size in shape.sections])
    return [part[:size] for part, size in zip(parts, shape.sections, strict=True)]


def past_of(item: Extension) -> TorchPast | None:
    return item.past if isinstance(item.past, TorchPast) else None


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _ends(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
