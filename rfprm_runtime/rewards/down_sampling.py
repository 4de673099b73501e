"""Which samples of a group to train on: sample many answers to a question, update on a few.

Knows only numbers, like ``advantages``.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice, check_one_for_each, check_whole
from rfprm_runtime.rewards.advantages import FloatArray, Rewards, one_reward_each

Keep = Literal["max_variance", "top", "balanced"]
"""Which samples stay, see :func:`down_sample`."""
Indices = NDArray[np.intp]


def down_sample(
    rewards: Rewards,
    num_kept: int,
    *,
    group_size: int | None = None,
    keep: Keep = "max_variance",
    outcomes: Rewards | None = None,
    right_share: float = 0.5,
) -> Indices:
    """Indices of the ``num_kept`` samples of each group to train on, ascending in a group:
    [num_groups * num_kept]. Groups are ``group_size`` consecutive samples, by default all of them.

    - ``max_variance``: the samples whose rewards vary most, which are always some of the highest
      and some of the lowest (PODS, arXiv 2504.13818).
    - ``top``: the highest rewards, as a reranker chooses.
    - ``balanced``: ``right_share`` of the places go to right answers (``outcomes`` [N] of at least
      0.5), the best-rewarded of them; the others to the worst-rewarded wrong ones. Places that one
      kind cannot fill go to the other.

    Samples without a reward (None or NaN), and with ``balanced`` those without an outcome, stay
    only where others do not suffice. The same rewards always give the same choice.

    Choosing changes mean and spread of a group. ``group_advantages(rewards[kept], num_kept)``
    compares the kept samples with each other, as TRL does with what it gets;
    ``group_advantages(rewards, group_size)[kept]`` compares them with all that were sampled.

    Raises ``ValueError`` for an unknown rule, groups that do not fit the rewards, more samples kept
    than a group has, ``balanced`` without one outcome for each reward, or a share outside [0, 1].
    """
    values = one_reward_each(rewards)
    size = len(values) if group_size is None else group_size
    check_choice("keep", keep, get_args(Keep))
    check_whole("num_kept", num_kept)
    if group_size is not None:
        check_whole("group_size", group_size)
    if num_kept > size or len(values) % size:
        raise InvalidArgumentError(
            f"cannot keep {num_kept} of each group of {size} among {len(values)} rewards; sample "
            "at least as many as are kept, and as many for each question"
        )
    is_right = _right(outcomes, len(values), right_share) if keep == "balanced" else values
    kept = []
    for start in range(0, len(values), size):
        group = slice(start, start + size)
        chosen = _choose(values[group], is_right[group], num_kept, keep, right_share)
        kept.append(start + np.sort(chosen))
    return np.concatenate(kept)


def _right(outcomes: Rewards | None, count: int, right_share: float) -> FloatArray:
    """1 for right, 0 for wrong, NaN for unknown, [N]."""
    if outcomes is None:
        raise InvalidArgumentError(
            "keep='balanced' needs outcomes: 1 for a right answer, 0 for a wrong one"
        )
    if not 0.0 <= right_share <= 1.0:
        raise InvalidArgumentError(f"right_share is {right_share}, expected a share in [0, 1]")
    check_one_for_each("outcomes", outcomes, count, "rewards")
    found = one_reward_each(outcomes)
    return np.where(np.isnan(found), np.nan, (found >= 0.5).astype(np.float64))


def _choose(
    values: FloatArray, is_right: FloatArray, num_kept: int, keep: Keep, right_share: float
) -> Indices:
    """Indices into one group, [num_kept], in no order."""
    is_known = ~np.isnan(values) & ~np.isnan(is_right)
    best_first = np.argsort(-values, kind="stable")
    known = best_first[is_known[best_first]]
    if len(known) <= num_kept:
        unknown = np.flatnonzero(~is_known)
        return np.concatenate([known, unknown[: num_kept - len(known)]])
    if keep == "top":
        return known[:num_kept]
    if keep == "max_variance":
        return _ends(known, _num_lowest(values[known], num_kept), num_kept)
    right, wrong = known[is_right[known] == 1.0], known[is_right[known] == 0.0]
    wanted = round(right_share * num_kept)
    num_right = min(max(wanted, num_kept - len(wrong)), len(right))
    return np.concatenate([right[:num_right], wrong[len(wrong) - (num_kept - num_right) :]])


def _ends(ordered: Indices, num_last: int, count: int) -> Indices:
    """``count`` from both ends, ``num_last`` of them from the end."""
    return np.concatenate([ordered[: count - num_last], ordered[len(ordered) - num_last :]])


def _num_lowest(descending: FloatArray, count: int) -> int:
    """How many of ``count`` samples to take from the lowest, for the largest variance."""
    centred = descending - descending.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    lowest = np.arange(count + 1)
    first, last = count - lowest, len(descending) - lowest  # what lies between is left out
    total = sums[first] + sums[-1] - sums[last]
    total_squares = squares[first] + squares[-1] - squares[last]
    return int(np.argmax(total_squares - total**2 / count))
