"""How sure a parity record can be: intervals for what was measured on few traces."""

from __future__ import annotations

import math

from rfprm_runtime.artifact.build_records import Parity

_Z = 1.959964
"""Standard errors on either side of a 95 % interval."""


def spearman_interval(parity: Parity) -> tuple[float, float] | None:
    """The 95 % interval of Spearman's ρ by Fisher's transformation, with Bonett and Wright's
    standard error (Psychometrika 65, 2000). None if ρ is undefined.

    It counts trajectories, not scores: those of one trajectory depend on each other.
    """
    rho, count = parity.spearman, parity.num_trajectories
    if rho is None:
        return None
    if count <= 3:
        return -1.0, 1.0
    if abs(rho) >= 1:  # up to rounding
        return math.copysign(1.0, rho), math.copysign(1.0, rho)
    error = _Z * math.sqrt((1 + rho * rho / 2) / (count - 3))
    return math.tanh(math.atanh(rho) - error), math.tanh(math.atanh(rho) + error)


def best_of_4_interval(parity: Parity) -> tuple[float, float] | None:
    """The 95 % interval of the share of unchanged Best-of-4 picks, by Wilson (JASA 22, 1927). None
    if no group was compared."""
    share, count = parity.same_best_of_4, parity.num_groups
    if share is None or not count:
        return None
    square = _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count * count)
    half = _Z * math.sqrt(spread) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)
