"""How many decisions change when one scorer takes the place of another: first errors, picks and
selections. Differences of scores say little about that. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export.verify import rank_correlation
from rfprm_runtime.scores.first_error import first_below
from rfprm_runtime.types import TrajectoryScore
from rfprm_training.evaluation.claims import Claims
from rfprm_training.example import Example

TOP_SHARES = (0.01, 0.1, 0.5)


@dataclass(frozen=True)
class Decisions:
    """What differs between the scores of two scorers, over trajectories that both scored."""

    num_trajectories: int
    mean_step_difference: float | None
    """Mean |difference| of a step score; None without step scores."""
    mean_reward_difference: float
    rank_correlation: float | None
    """Spearman's, of the rewards; None if either side is constant."""
    first_errors_changed: float | None
    """Share of trajectories with another first step below the undecided score."""
    picks_changed: float | None
    """Share of questions with another best solution; None without a question of several."""
    num_questions_picked: int
    top_changed: Mapping[float, float]
    """For each share of the trajectories to select: the part of the selection that is replaced."""


def changed_decisions(
    examples: Sequence[Example],
    scores: Sequence[TrajectoryScore | None],
    others: Sequence[TrajectoryScore | None],
    claims: Claims,
    other_claims: Claims,
) -> Decisions | None:
    """What changes from ``scores`` to ``others``, of the same trajectories; None if no trajectory
    has both scores. Of equal rewards the earlier trajectory is preferred."""
    both = [
        (example.group, mine, other)
        for example, mine, other in zip(examples, scores, others, strict=True)
        if mine is not None and other is not None
    ]
    if not both:
        return None
    rewards = np.array([mine.reward for _, mine, _ in both], dtype=np.float64)
    other_rewards = np.array([other.reward for _, _, other in both], dtype=np.float64)
    steps = [
        (mine.step_scores, other.step_scores)
        for _, mine, other in both
        if len(mine.step_scores) and len(mine.step_scores) == len(other.step_scores)
    ]
    firsts = [
        first_below(mine, claims.undecided) != first_below(other, other_claims.undecided)
        for mine, other in steps
    ]
    picks = _picks_changed([group for group, _, _ in both], rewards, other_rewards)
    return Decisions(
        num_trajectories=len(both),
        mean_step_difference=_mean(np.concatenate([abs(m - o) for m, o in steps]))
        if steps
        else None,
        mean_reward_difference=_mean(abs(rewards - other_rewards)),
        rank_correlation=rank_correlation(rewards, other_rewards),
        first_errors_changed=_mean(firsts) if firsts else None,
        picks_changed=_mean(picks) if picks else None,
        num_questions_picked=len(picks),
        top_changed={share: _top_changed(rewards, other_rewards, share) for share in TOP_SHARES},
    )


def _picks_changed(
    groups: Sequence[str], rewards: NDArray[np.float64], others: NDArray[np.float64]
) -> list[bool]:
    """Of each question with several solutions."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return [
        bool(rewards[rows].argmax() != others[rows].argmax())
        for rows in members.values()
        if len(rows) > 1
    ]


def _top_changed(rewards: NDArray[np.float64], others: NDArray[np.float64], share: float) -> float:
    number = math.ceil(len(rewards) * share)
    mine, other = (
        set(np.argsort(-each, kind="stable")[:number].tolist()) for each in (rewards, others)
    )
    return len(mine - other) / number


def _mean(values: Sequence[bool] | NDArray[np.floating]) -> float:
    return float(np.mean(values))
