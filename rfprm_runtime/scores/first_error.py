"""Where a trace goes wrong first, by its scores. Knows manifests and numbers, no text."""

from __future__ import annotations

import numpy as np

from rfprm_runtime.artifact.manifest import FirstErrorRule, Manifest, Readout
from rfprm_runtime.types import Float32Array, TrajectoryScore


def undecided_score(readout: Readout | None) -> float:
    """The score that claims a chance of one half: 0.5 for a probability, 0 for a logit and for
    p(right) − p(wrong). None stands for probabilities."""
    if readout is None:
        return 0.5
    return readout.offset + (0.0 if readout.bounds is None else 0.5 * readout.scale)


def rule_of(manifest: Manifest) -> FirstErrorRule:
    """The rule that was fitted for the PRM; without one, a step is wrong if it is more likely wrong
    than right, as ProcessBench (arXiv 2412.06559) reads PRMs."""
    readout = manifest.step_readout or manifest.trajectory_readout
    return manifest.first_error or FirstErrorRule(wrong_below=undecided_score(readout))


def first_error(score: TrajectoryScore, rule: FirstErrorRule) -> int | None:
    """The index, from 0, of the first wrong step by ``rule``; None for a trace without one."""
    return first_below(score.step_scores, rule.wrong_below)


def first_below(step_scores: Float32Array, threshold: float) -> int | None:
    """Index of the first step that scores less, or None; ``step_scores`` float32 [T]."""
    below = np.flatnonzero(step_scores < threshold)
    return int(below[0]) if len(below) else None
