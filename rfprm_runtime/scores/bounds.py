"""Which numbers a PRM's scores can be, and what follows for scales and thresholds.

A readout is bounded (a probability, or a difference of two) or raw: a logit without bounds. Knows
manifests and numbers, no tokens and no text.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_finite

Bounds: TypeAlias = tuple[float, float] | None
"""The lowest and the highest number; None if there are no bounds."""


def step_bounds(manifest: Manifest) -> Bounds:
    """Of a step score; of a prefix's score for a reward model of whole sequences."""
    readout = manifest.step_readout or manifest.trajectory_readout
    return None if readout is None else readout.bounds


def are_probabilities(bounds: Bounds) -> bool:
    """Whether all numbers within ``bounds`` lie in [0, 1]."""
    return bounds is not None and bounds[0] >= 0 and bounds[1] <= 1


def unit_scale(values: Any, bounds: Bounds) -> NDArray[np.float64]:
    """``values`` on a scale from 0 to 1, float64 in their shape; NaN stays NaN.

    Within bounds (v − low) / (high − low). Without, σ(v): what a reward model makes of one answer
    against another of score 0 (Bradley-Terry). Either way the order stays, though σ of large scores
    may round to the same number. Not in the paper, which mixes r̂ as it is.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if bounds is None:
        # Only what is at most 0 is exponentiated, so nothing overflows.
        small = np.exp(-np.abs(numbers))
        return np.asarray(np.where(numbers >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)
    low, high = bounds
    return np.asarray((numbers - low) / (high - low), dtype=np.float64)


def check_threshold(name: str, value: float, bounds: Bounds, of: str) -> None:
    """Raises :class:`InvalidArgumentError` if the threshold is not finite, or if ``of`` (the
    scores it is for, in words) cannot lie on both sides of it."""
    check_finite(name, value)
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        effect = "everything passes" if value < bounds[0] else "nothing passes"
        raise InvalidArgumentError(
            f"{name} is {value:g}, but {of} lie in [{bounds[0]:g}, {bounds[1]:g}], so {effect}; "
            "choose a threshold in between"
        )
