"""Finds the prefixes that rows share: a tree of token stretches, each of which is run once.

Knows token ids and no models.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MIN_SHARED = 16
"""Rows share a stretch of at least this many tokens: a separate stretch costs another pass over the
weights, about as much as this many tokens (measured; docs/log.md)."""


@dataclass
class PrefixNode:
    """Tokens [begin, end) of every row in ``rows``: the same ids after the same ids."""

    begin: int
    end: int
    rows: list[int]
    """Indices of the rows that go through this node."""
    ending: list[int]
    """Those of them that end here."""
    children: list[PrefixNode] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return self.end - self.begin


def plan_prefixes(
    rows: Sequence[NDArray[np.int64]],
    indices: Iterable[int] | None = None,
    *,
    min_shared: int = MIN_SHARED,
) -> list[PrefixNode]:
    """The roots of a forest over ``rows`` (int64 [num_tokens] each), or over those at ``indices``.

    Joined, the nodes from a root to the one where a row ends are that row. Fewer than
    ``min_shared`` further common tokens get no node of their own.
    """
    # Big-endian ids sort like their bytes, and a row sorts right before those that extend it.
    order = sorted(
        range(len(rows)) if indices is None else indices,
        key=lambda index: rows[index].astype(">i8").tobytes(),
    )
    common = np.array(
        [0, *(_num_common(rows[a], rows[b]) for a, b in itertools.pairwise(order))], np.int64
    )
    roots: list[PrefixNode] = []
    # Rows order[low:high], which agree up to `begin`, and the list that their nodes join.
    pending = [(0, len(order), 0, roots)]
    while pending:
        low, high, begin, siblings = pending.pop()
        if high - low <= 1:
            siblings.extend(
                PrefixNode(begin, len(rows[row]), [row], [row]) for row in order[low:high]
            )
            continue
        shared = int(common[low + 1 : high].min())
        if shared - begin >= min_shared:
            through = order[low:high]
            ending = [row for row in through if len(rows[row]) == shared]
            node = PrefixNode(begin, shared, through, ending)
            siblings.append(node)
            low, begin, siblings = low + len(ending), shared, node.children
        splits = low + 1 + np.flatnonzero(common[low + 1 : high] == shared)
        bounds = [low, *(int(place) for place in splits), high]
        pending.extend((a, b, begin, siblings) for a, b in itertools.pairwise(bounds))
    return roots


def _num_common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0  # stops at the first
    return first if length and different[first] else length
