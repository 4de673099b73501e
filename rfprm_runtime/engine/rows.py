"""Token rows, and the batches and extensions in which a backend runs them.

Knows token ids, lengths and limits; knows no models and no text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenRow:
    """Token ids, and the positions where logits are read."""

    token_ids: NDArray[np.int64]  # [num_tokens]
    marker_positions: NDArray[np.int64]  # [num_markers]

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows for one forward pass."""

    token_ids: NDArray[np.int64]  # [batch, length]
    lengths: NDArray[np.int64]  # [batch], real tokens of each row
    marker_positions: NDArray[np.int64]  # [num_markers], into the flattened [batch * length]


class Block(Protocol):
    """A piece of memory that pasts hold, compared by identity."""

    @property
    def num_bytes(self) -> int: ...


class Past(Protocol):
    """The cached keys and values of the tokens so far.

    It never changes: extending it makes a new one, so any number of rows can continue from the
    same past, in any thread. Memory is freed with the last past that holds it.
    """

    @property
    def num_tokens(self) -> int: ...

    @property
    def blocks(self) -> Sequence[Block]:
        """The memory it holds; pasts with a common prefix share blocks."""
        ...


@dataclass(frozen=True)
class Extension:
    """New tokens of one row."""

    token_ids: NDArray[np.int64]  # [num_tokens], at least one
    marker_positions: NDArray[np.int64]  # [num_markers], ascending, counted from the first new one
    past: Past | None = None
    """What comes before the new tokens; None if they begin the row."""
    keep: bool = False
    """Whether to return the past up to the last new token."""

    @property
    def num_past_tokens(self) -> int:
        return 0 if self.past is None else self.past.num_tokens


@dataclass(frozen=True)
class Extended:
    """The result of an extension."""

    logits: NDArray[np.float32]  # [num_markers, num_labels]
    past: Past | None
    """Present if ``keep`` asked for it and the backend keeps pasts."""


@dataclass(frozen=True)
class BackendLimits:
    """How much a backend takes in one call, and how many calls at once."""

    max_batch_size: int = 1
    """Rows of one batch. With 1 nothing is ever padded, and a score cannot depend on what else is
    scored; on a CPU that is also fastest."""
    max_batch_tokens: int | None = None
    """Padded tokens of one batch; a single longer row still gets a batch of its own."""
    max_concurrent_runs: int = 1

    def take(self, num_rows: int, longest: int) -> bool:
        """Whether ``num_rows`` rows, padded to ``longest`` tokens, fit one batch."""
        return num_rows <= self.max_batch_size and (
            self.max_batch_tokens is None or num_rows * longest <= self.max_batch_tokens
        )


ALL_ROWS_AT_ONCE = BackendLimits(max_batch_size=sys.maxsize)
"""Of a backend that takes the rows of a call together, whatever their number and their lengths."""


def plan_batches(lengths: Sequence[int], limits: BackendLimits) -> list[list[int]]:
    """The row indices of each batch, longest first.

    That keeps padding small, and short rows fill the cores at the end, when a long last row would
    leave all but one of them idle.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        # The first row of a batch is its longest.
        if batches and limits.take(len(batches[-1]) + 1, lengths[batches[-1][0]]):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def split_batch(batch: TokenBatch, first: int) -> tuple[TokenBatch, TokenBatch]:
    """Split off the ``first`` rows; each part is as long as its longest row. Markers stay in order
    if those of one row come before those of the next."""
    length = batch.token_ids.shape[1]
    rows, columns = np.divmod(batch.marker_positions, length)
    parts = []
    for start, stop in ((0, first), (first, len(batch.lengths))):
        lengths = batch.lengths[start:stop]
        longest = int(lengths.max())
        inside = (rows >= start) & (rows < stop)
        markers = (rows[inside] - start) * longest + columns[inside]
        parts.append(TokenBatch(batch.token_ids[start:stop, :longest], lengths, markers))
    return parts[0], parts[1]


def pad_batch(rows: Sequence[TokenRow], *, pad_id: int = 0) -> TokenBatch:
    """Right-pad ``rows`` into one batch. Causal attention keeps the padding out of every row."""
    lengths = np.array([row.num_tokens for row in rows], dtype=np.int64)
    length = int(lengths.max())
    token_ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    for index, row in enumerate(rows):
        token_ids[index, : row.num_tokens] = row.token_ids
    marker_positions = np.concatenate(
        [row.marker_positions + index * length for index, row in enumerate(rows)]
    )
    return TokenBatch(token_ids, lengths, marker_positions)


def rows_of(batch: TokenBatch) -> list[TokenRow]:
    """The rows that :func:`pad_batch` made ``batch`` from; their markers in the same order."""
    length = batch.token_ids.shape[1]
    owners, positions = np.divmod(batch.marker_positions, length)
    return [
        TokenRow(batch.token_ids[index, :num_tokens], positions[owners == index])
        for index, num_tokens in enumerate(batch.lengths)
    ]
