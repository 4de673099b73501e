"""Several trajectories of one question in one row, as a tree of tokens.

A right and a wrong trajectory share the question and every step before the error; all solutions to
a question share at least the question. In a tree, laid out depth first, shared tokens are computed
and stored once. Knows token ids, no text and no models.
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
class TokenTree:
    """Trajectories of one group as a tree of tokens."""

    members: tuple[int, ...]
    """Indices of the trajectories."""
    token_ids: NDArray[np.int64]  # [num_tokens], depth first
    positions: NDArray[np.int64]  # [num_tokens], each token's place in its trajectories
    seen_until: NDArray[np.int64]  # [num_tokens], where the token's last descendant ends
    marker_positions: tuple[NDArray[np.int64], ...]
    """Positions in ``token_ids``, for each member."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def is_one_sequence(self) -> bool:
        return len(self.members) == 1


@dataclass(frozen=True)
class TreeBatch:
    """Right-padded token trees for one forward pass."""

    token_ids: torch.Tensor  # int64 [batch, length]
    tree: Tree | None
    """None where every tree is a single sequence, for which causal attention is enough."""


def build_trees(
    rows: Sequence[TokenRow], groups: Sequence[str], max_tokens: int
) -> list[TokenTree]:
    """Token trees of at most ``max_tokens`` tokens; a longer trajectory gets its own tree.

    ``groups[i]`` is the group of ``rows[i]``. A tree holds members of one group. The trees of a
    group are adjacent, in the order in which the groups first appear.
    """
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return [
        build_tree(rows, part)
        for indices in members.values()
        for part in _split(rows, indices, max_tokens)
    ]


def _split(rows: Sequence[TokenRow], indices: list[int], max_tokens: int) -> list[list[int]]:
    """Consecutive parts of at most ``max_tokens`` tokens each; shared tokens count once."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and _num_tokens(rows, [*parts[-1], index]) <= max_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _num_tokens(rows: Sequence[TokenRow], indices: list[int]) -> int:
    pending, total = _roots(rows, indices), 0
    while pending:
        node = pending.pop()
        total += node.num_tokens
        pending += node.children
    return total


def _roots(rows: Sequence[TokenRow], indices: list[int]) -> list[PrefixNode]:
    # A branch within one row costs nothing, so even a single shared token is worth it.
    return plan_prefixes([row.token_ids for row in rows], indices, min_shared=1)


def build_tree(rows: Sequence[TokenRow], indices: Sequence[int]) -> TokenTree:
    """The rows at ``indices`` as one tree."""
    token_ids: list[NDArray[np.int64]] = []
    positions: list[NDArray[np.int64]] = []
    seen_until: list[NDArray[np.int64]] = []
    markers: dict[int, list[NDArray[np.int64]]] = {index: [] for index in indices}

    def place(node: PrefixNode, start: int) -> int:
        """Lay out the node and its descendants from ``start``; returns where they end."""
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
    return TokenTree(
        members=tuple(indices),
        token_ids=np.concatenate(token_ids),
        positions=np.concatenate(positions),
        seen_until=np.concatenate(seen_until),
        marker_positions=tuple(np.concatenate(markers[index]) for index in indices),
    )


def pad_trees(trees: Sequence[TokenTree], device: torch.device) -> TreeBatch:
    """Trees as one batch. A padding token sees only itself, and no other token sees it."""
    length = max(tree.num_tokens for tree in trees)
    token_ids = np.zeros((len(trees), length), np.int64)
    for row, tree in enumerate(trees):
        token_ids[row, : tree.num_tokens] = tree.token_ids
    ids = torch.from_numpy(token_ids).to(device)
    if all(tree.is_one_sequence for tree in trees):
        return TreeBatch(ids, None)
    places = np.arange(length)
    positions = np.zeros((len(trees), length), np.int64)
    seen_until = np.tile(places + 1, (len(trees), 1))
    for row, tree in enumerate(trees):
        positions[row, : tree.num_tokens] = tree.positions
        seen_until[row, : tree.num_tokens] = tree.seen_until
    # Depth first, a token's descendants are the tokens from it up to its ``seen_until``.
    later = torch.from_numpy(places).to(device)[None, :, None]
    earlier = later.transpose(1, 2)
    ends = torch.from_numpy(seen_until).to(device)[:, None, :]
    visible = (earlier <= later) & (later < ends)
    return TreeBatch(ids, Tree(torch.from_numpy(positions).to(device), visible[:, None]))
