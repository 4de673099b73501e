"""From step scores and a trajectory score to one reward (ReasonFlux-PRM, arXiv 2506.18896)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def trajectory_reward(
    step_scores: NDArray[np.float32], trajectory_score: float | None, alpha: float
) -> float:
    """Eq. 11: r̂ = mean_t r̂_t + α · r̂_final, in [0, 1 + α].

    ``step_scores`` float32 [T] with T >= 1. A model without a trajectory readout
    (``trajectory_score`` None) is rewarded by the mean of its steps alone, in [0, 1].
    """
    # float64 sums make the mean independent of how numpy splits a float32 reduction.
    mean = float(np.mean(step_scores, dtype=np.float64))
    return mean if trajectory_score is None else mean + alpha * trajectory_score
