"""Rewards and advantages for online reinforcement learning (ReasonFlux-PRM, arXiv 2506.18896).

Knows only numbers: no text, no tokens, no models, no trainer. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice, check_not_negative, check_whole

FloatArray = NDArray[np.float64]
Rewards = Sequence[float | None] | NDArray[Any]
"""One number per sample; None or NaN for a sample that could not be scored."""
Scale = Literal["group", "batch", "none"]
"""What divides an advantage: the spread of its group, that of the whole batch, or nothing
(Dr. GRPO, arXiv 2503.20783)."""
CreditForm = Literal["mean", "min", "progress"]

DEFAULT_BETA = 0.75
"""Weight of the process reward in ReasonFlux-PRM's released code."""
DEFAULT_TEMPERATURE = 0.05
"""PURE uses 0.1 for step rewards in [-1, 1]; probabilities lie in [0, 1], half as wide."""


def mixed_reward(
    outcome: Rewards | float | None, process: Rewards | float | None, beta: float = DEFAULT_BETA
) -> FloatArray:
    """Eq. 12, first half: r_new = (1 − β) · r_outcome + β · r̂, in the shape of the arguments.

    ``process`` is r̂ of Eq. 11, in [0, 1 + α] for a PRM of probabilities. With ``outcome`` in
    [0, 1], it weighs up to 1 + α times what β says, and without bounds any number of times;
    :func:`~rfprm_runtime.scores.bounds.unit_scale` puts both on one scale.

    An unknown reward (None or NaN) makes the result NaN unless its weight is 0: β = 1 needs no
    outcome, β = 0 no process reward.
    Raises ``ValueError`` if the shapes differ or β is outside [0, 1].
    """
    if not 0.0 <= beta <= 1.0:
        raise InvalidArgumentError(f"beta is {beta}, expected a weight in [0, 1]")
    parts = [
        _as_floats(values, name)
        for values, name, weight in ((outcome, "outcome", 1.0 - beta), (process, "process", beta))
        if weight > 0.0
    ]
    if len(parts) == 1:
        return parts[0]
    if parts[0].shape != parts[1].shape:
        raise InvalidArgumentError(
            f"outcome has shape {parts[0].shape}, process has {parts[1].shape}; pass one of each "
            "for every sample"
        )
    return np.asarray((1.0 - beta) * parts[0] + beta * parts[1], dtype=np.float64)


def group_advantages(
    rewards: Rewards,
    group_size: int | None = None,
    *,
    group_ids: Sequence[Hashable] | None = None,
    scale: Scale = "group",
    epsilon: float = 1e-4,
    ddof: int = 1,
    clip: float | None = None,
) -> FloatArray:
    """Eq. 12, second half: A = (r − mean_group) / (std_group + ε), float64 [N].

    A group holds the answers to one question: ``group_size`` consecutive samples, or those with
    the same entry in ``group_ids`` [N], in any order. Pass exactly one of the two.

    Unknown rewards (None or NaN), a group's only known reward, and equal rewards get advantage 0,
    whatever ε. Unknown rewards enter neither mean nor spread.

    The defaults are those of TRL's GRPOTrainer (``scale_rewards`` takes the same three values):
    the unbiased spread (``ddof=1``) and ε = 1e-4. verl uses ε = 1e-6 and OpenRLHF 1e-9 with the
    same spread; TRL's AsyncGRPO uses ``ddof=0`` and ε = 1e-8. ``clip``, which is not in the paper,
    limits advantages to [-clip, clip]: with a small spread, one outlier can dominate.

    Raises ``ValueError`` for an unknown scale, groups that do not fit the rewards, a negative ε or
    ``clip``, or an infinite reward.
    """
    values = one_reward_each(rewards)
    check_choice("scale", scale, get_args(Scale))
    check_not_negative("epsilon", epsilon)
    check_whole("ddof", ddof, least=0)
    if clip is not None:
        check_not_negative("clip", clip, more=", or None for no limit")
    if group_size is not None:
        check_whole("group_size", group_size)
    advantages = np.zeros_like(values)
    batch_spread = _spread(values, ddof)
    for members in _groups(len(values), group_size, group_ids):
        spread = _spread(values[members], ddof) if scale == "group" else batch_spread
        divisor = 1.0 if scale == "none" else spread + epsilon
        advantages[members] = _centred(values[members]) / (divisor or 1.0)
    return advantages if clip is None else np.clip(advantages, -clip, clip)


def step_credits(
    step_scores: Rewards,
    form: CreditForm = "mean",
    *,
    temperature: float = DEFAULT_TEMPERATURE,
) -> FloatArray:
    """What each step contributes to the reward of its trace, float64 [T]; the sum is that reward.

    ``step_scores`` [T], T >= 1, are probabilities or other numbers. Three forms:

    - ``mean``: r̂_t / T, the step part of Eq. 11. It dilutes a wrong step: easy steps around it
      raise the mean, so a policy can earn by writing more of them.
    - ``min``: softmax(−r̂/τ)_t · r̂_t, the min-form credit assignment of PURE (arXiv 2504.15275).
      The sum is close to the lowest step score, so no step can make up for another. τ → 0 gives all
      credit to the lowest step (``temperature=0``; the first one on a tie). τ is in the unit of the
      scores: the default suits probabilities; take 0.1 for scores in [−1, 1], and for raw ones a
      twentieth of what they usually span.
    - ``progress``: r̂_t − r̂_(t−1) with r̂_0 = 0: what a step changed, potential-based shaping (Ng
      et al. 1999; arXiv 2410.08146 defines progress as such a difference). The sum is the last
      score, whatever the number of steps. Use it with a PRM whose step score estimates how likely
      the trace so far is to succeed, or its log-odds, or with scores of prefixes.

    There is no plain sum: it grows with the number of steps, and training on it collapsed in
    PURE's experiments. Raises ``ValueError`` for no steps, an unknown score, an unknown form or a
    negative temperature.
    """
    scores = one_reward_each(step_scores)
    check_choice("form", form, get_args(CreditForm))
    if len(scores) == 0 or np.isnan(scores).any():
        raise InvalidArgumentError(
            f"got step scores {scores.tolist()}, expected at least one and no None or NaN; leave "
            "out traces that cannot be scored, and load a reward model of whole sequences with "
            "score_prefixes=True"
        )
    if form == "mean":
        return scores / len(scores)
    if form == "progress":
        return np.diff(scores, prepend=0.0)
    return scores * _weights_of_the_lowest(scores, temperature)


def _weights_of_the_lowest(scores: FloatArray, temperature: float) -> FloatArray:
    """softmax(−scores / temperature), [T]."""
    check_not_negative("temperature", temperature)
    above = scores - scores.min()
    if temperature == 0.0:
        return np.asarray(np.arange(len(scores)) == np.argmin(scores), dtype=np.float64)
    weights = np.exp(-above / temperature)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _groups(
    count: int, group_size: int | None, group_ids: Sequence[Hashable] | None
) -> list[NDArray[np.intp]]:
    """Indices of the members of each group."""
    if (group_size is None) == (group_ids is None):
        raise InvalidArgumentError("pass exactly one of group_size or group_ids")
    if group_ids is not None:
        if len(group_ids) != count:
            raise InvalidArgumentError(f"got {len(group_ids)} group ids for {count} rewards")
        members: dict[Hashable, list[int]] = {}
        for index, group in enumerate(group_ids):
            members.setdefault(group, []).append(index)
        return [np.asarray(indices, dtype=np.intp) for indices in members.values()]
    assert group_size is not None
    if group_size < 1 or count % group_size:
        raise InvalidArgumentError(
            f"{count} rewards do not divide into groups of {group_size}; pass group_ids if groups "
            "differ in size"
        )
    return list(np.arange(count, dtype=np.intp).reshape(-1, group_size))


def _centred(values: FloatArray) -> FloatArray:
    """Differences from the mean of the known values; 0 for unknown values."""
    known = ~np.isnan(values)
    # The mean of equal numbers may differ from them in the last bit; a small ε would blow that up.
    if len(set(values[known].tolist())) < 2:
        return np.zeros_like(values)
    return np.where(known, values - values[known].mean(), 0.0)


def _spread(values: FloatArray, ddof: int) -> float:
    """Standard deviation of the known values; 0 if there are too few."""
    known = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        spread = float(known.std(ddof=ddof)) if len(known) > ddof else 0.0
    if not np.isfinite(spread):  # dividing by it would make every advantage 0
        raise InvalidArgumentError(
            f"rewards from {known.min():g} to {known.max():g} are too large for their spread to be "
            "computed; scale them down"
        )
    return spread


def one_reward_each(values: Rewards) -> FloatArray:
    array = _as_floats(values, "rewards")
    if array.ndim != 1:
        raise InvalidArgumentError(
            f"rewards have shape {array.shape}, expected one number per sample, [N]"
        )
    return array


def _as_floats(values: Any, name: str) -> FloatArray:
    """float64; None becomes NaN."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"{name} must be numbers, or None where unknown: {error}"
        ) from None
    if np.isinf(array).any():
        raise InvalidArgumentError(f"{name} holds an infinite number; rewards must be finite")
    return array
