"""Trajectories to one question in one row, in which what they share is there once.

A right and a wrong trajectory have the question in common, and every step before the error; so do
all solutions to a question. Packed as a tree, in depth-first order, those tokens are computed and
kept once for all of them. Knows token ids, no text and no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_runtime.backends.torch import Tree
from rfprm_runtime.engine.prefix import PrefixNode, plan_prefixes
from rfprm_runtime.engine.rows import TokenRow


@dataclass(frozen=True)
class Pack:
    """Some trajectories of one group as a tree of tokens."""

    members: tuple[int, ...]
    """Indices of the trajectories."""
    token_ids: NDArray[np.int64]  # [num_tokens], depth first
    positions: NDArray[np.int64]  # [num_tokens], each token's place in its trajectories
    seen_until: NDArray[np.int64]  # [num_tokens], where the token's last descendant ends
    marker_positions: tuple[NDArray[np.int64], ...]
    """Of each member, into ``token_ids``."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_one_sequence(self) -> bool:
        return len(self.members) == 1


@dataclass(frozen=True)
class PackedBatch:
    """Right-padded packs for one forward pass."""

    token_ids: torch.Tensor  # int64 [batch, length]
    tree: Tree | None
    """None where every pack is one sequence, and causal attention is all there is to it."""


def pack_groups(rows: Sequence[TokenRow], groups: Sequence[str], max_tokens: int) -> list[Pack]:
    """Packs of at most ``max_tokens`` tokens; a longer trajectory has one of its own.

    ``groups[i]`` says which group ``rows[i]`` belongs to. A pack holds members of one group, and
    the packs of a group stand together, in the order in which the groups first appear.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return [
        pack(rows, some)
        for indices in members.values()
        for some in _split(rows, indices, max_tokens)
    ]


def _split(rows: Sequence[TokenRow], indices: list[int], max_tokens: int) -> list[list[int]]:
    """One part of all where that fits, or else parts of neighbours in order; the tokens that a
    part would share count once."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and _num_packed(rows, [*parts[-1], index]) <= max_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _num_packed(rows: Sequence[TokenRow], indices: list[int]) -> int:
    pending, total = _roots(rows, indices), 0
    while pending:
        node = pending.pop()
        total += node.num_tokens
        pending += node.children
    return total


def _roots(rows: Sequence[TokenRow], indices: list[int]) -> list[PrefixNode]:
    # In one row there is no bookkeeping to a stretch, so every common token counts.
    return plan_prefixes([row.token_ids for row in rows], indices, min_shared=1)


def pack(rows: Sequence[TokenRow], indices: Sequence[int]) -> Pack:
    """``rows[i]`` for every i of ``indices`` as one tree."""
    token_ids: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    seen_until: list[NDArray[np.int64]] = []
    markers: dict[int, list[NDArray[np.int64]]] = {index: [] for index in indices}

    def place(node: PrefixNode, start: int) -> int:
        """Lay the node and what is below it down from ``start`` on; where that ends."""
        token_ids.append(rows[node.rows[0]].token_ids[node.begin : node.end])
        positions.append(np.arange(node.begin, node.end))
        ends = np.empty(node.num_tokens, np.int64)
        seen_until.append(ends)
        for row in node.rows:
            of_row = rows[row].marker_positions
            inside = of_row[(of_row >= node.begin) & (of_row < node.end)]
            markers[row].append(inside - node.begin + start)
        end = start + node.num_tokens
        for child in node.children:
            end = place(child, end)
        ends[:] = end
        return end

    end = 0
    for root in _roots(rows, list(indices)):
        end = place(root, end)
    return Pack(
        members=tuple(indices),
        token_ids=np.concatenate(token_ids),
        positions=np.concatenate(positions),
        seen_until=np.concatenate(seen_until),
        marker_positions=tuple(np.concatenate(markers[index]) for index in indices),
    )


def pad_packs(packs: Sequence[Pack], device: torch.device) -> PackedBatch:
    """What is padded sees nothing but itself, and nothing sees it."""
    length = max(p.num_tokens for p in packs)
    token_ids = np.zeros((len(packs), length), np.int64)
    for row, p in enumerate(packs):
        token_ids[row, : p.num_tokens] = p.token_ids
    ids = torch.from_numpy(token_ids).to(device)
    if all(p.is_one_sequence for p in packs):
        return PackedBatch(ids, None)
    places = np.arange(length)
    positions = np.zeros((len(packs), length), np.int64)
    seen_until = np.tile(places + 1, (len(packs), 1))
    for row, p in enumerate(packs):
        positions[row, : p.num_tokens] = p.positions
        seen_until[row, : p.num_tokens] = p.seen_until
    # In depth-first order the descendants of a token are those from it to where the last one ends.
    later = torch.from_numpy(places).to(device)[None, :, None]
    earlier = later.transpose(1, 2)
    ends = torch.from_numpy(seen_until).to(device)[:, None, :]
    visible = (earlier <= later) & (later < ends)
    return PackedBatch(ids, Tree(torch.from_numpy(positions).to(device), visible[:, None]))
