"""Assigns steps to groups in order, so that neighbours stay together. Knows numbers only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_PAIRS = 2**20
"""Up to this many pairs of a step and a group, every possible assignment is considered: 2,000 steps
in 1,000 groups form about as many."""
_LEAST_WIDTH = 64

Similarities = Callable[[int, int, int], ArrayLike]
"""``similarities(t, low, high)``: float [high - low], how well step t fits the groups
[low, high)."""


def group_starts(num_steps: int, num_groups: int, similarities: Similarities) -> list[int]:
    """The first step of each group in the monotone assignment with the greatest total similarity.

    Every group gets at least one step; ``num_steps`` is at least ``num_groups``. On a tie the later
    step joins the one before it. With more than :data:`MAX_PAIRS` pairs, a step is only compared
    with the groups around its proportional place, so the time grows with the number of steps, not
    with its square.
    """
    lows, width = _band(num_steps, num_groups)
    best = np.full(width, -np.inf)  # of the groups from lows[t] on, at step t
    best[0] = np.asarray(similarities(0, 0, 1), np.float64)[0]
    opens = np.zeros((num_steps, width), bool)  # whether step t opens the group
    opens[0, 0] = True
    for t in range(1, num_steps):
        low, shift = int(lows[t]), int(lows[t] - lows[t - 1])
        before = np.concatenate([[-np.inf], best, [-np.inf]])
        advance, stay = before[shift : shift + width], before[shift + 1 : shift + 1 + width]
        high = min(low + width, num_groups, t + 1)
        own = np.full(width, -np.inf)
        own[: high - low] = similarities(t, low, high)
        opens[t] = advance > stay
        best = np.maximum(stay, advance) + own
    return _traced_back(opens, lows, num_groups)


def _band(num_steps: int, num_groups: int) -> tuple[NDArray[np.int64], int]:
    """The first group that each step is compared with, int64 [num_steps], and how many it is
    compared with. The first group never moves on by more than one."""
    steps = np.arange(num_steps, dtype=np.int64)
    # A step belongs to no group beyond its own number, nor to one that would leave too few steps
    # for the later groups.
    possible = min(num_groups, num_steps - num_groups + 1)
    width = max(_LEAST_WIDTH, MAX_PAIRS // num_steps)
    if possible <= width:
        return np.maximum(steps - (num_steps - num_groups), 0), possible
    middle = steps * (num_groups - 1) // (num_steps - 1)
    return np.clip(middle - width // 2, 0, num_groups - width), width


def _traced_back(opens: NDArray[np.bool_], lows: NDArray[np.int64], num_groups: int) -> list[int]:
    starts, group = [], num_groups - 1
    for t in range(len(opens) - 1, -1, -1):
        if opens[t, group - lows[t]]:
            starts.append(t)
            group -= 1
    return starts[::-1]
