"""Which step of the response a thinking step leads to. Pure; knows texts or vectors, no rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rfprm_runtime.ground.assignment import group_starts
from rfprm_training import TrainingError
from rfprm_training.labelling.step_rewards import cosine

Pairing = Literal["merged", "assigned", "nearest"]
"""``merged``, the paper's: surplus thinking steps are joined until there are as many as response
steps. ``assigned``: the same monotone assignment, but the steps stay separate. ``nearest``: every
step goes with the most similar response step."""


def pair_steps(steps: ArrayLike, response: ArrayLike) -> NDArray[np.int64]:
    """The response step of each thinking step, int64 [T], from vectors [T, d] and [R, d].

    With T > R, the monotone assignment with the greatest summed cosine in which every response step
    gets at least one step; otherwise step t goes with response step t. All -1 without a response.
    """
    s, a = np.asarray(steps, np.float64), np.asarray(response, np.float64)
    if not len(a):
        return np.full(len(s), -1, np.int64)
    if len(s) <= len(a):
        return np.arange(len(s), dtype=np.int64)
    starts = group_starts(len(s), len(a), lambda t, low, high: cosine(s[t], a[low:high]))
    return np.searchsorted(np.asarray(starts), np.arange(len(s)), side="right") - 1


def merge_paired(steps: Sequence[str], paired_with: ArrayLike) -> list[str]:
    """Neighbouring steps with the same response step, joined by a blank line."""
    index = np.asarray(paired_with, np.int64)
    if len(index) != len(steps):
        raise TrainingError(f"{len(index)} pairs for {len(steps)} steps")
    merged: list[str] = []
    for number, step in enumerate(steps):
        if number and index[number] == index[number - 1] and index[number] >= 0:
            merged[-1] += "\n\n" + step
        else:
            merged.append(step)
    return merged
