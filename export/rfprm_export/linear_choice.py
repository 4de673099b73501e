"""Chooses linears for 8 bits: measures each alone, then finds how many are allowed together.

Knows names and how to score with some of them in 8 bits; its callers know the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.gate import STRICT_GATE
from rfprm_export.gate_traces import num_probes
from rfprm_export.reference import Reference
from rfprm_export.verify import all_scores, trial_failures
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.ground.progress import Step
from rfprm_runtime.scorer import Scorer

ScorerWith = Callable[[Collection[str]], AbstractContextManager[Scorer]]
"""Opens a scorer in which these linears, and no others, have 8 bits."""


def differences_alone(
    groups: Mapping[str, Sequence[str]],
    scorer_with: ScorerWith,
    reference: Reference,
    manifest: Manifest,
    step: Step,
) -> dict[str, float]:
    """The mean difference of the scores when only one group of linears has 8 bits, by group.
    ``step`` is called with the groups measured and their number."""
    # Spread over the file, so that they belong to different questions.
    count = num_probes(manifest)
    distance = max(1, len(reference.trajectories) // count)
    probes = reference.trajectories[::distance][:count]

    def scores(in_8_bits: Collection[str]) -> NDArray[np.float64]:
        with scorer_with(in_8_bits) as scorer:
            return all_scores(scorer.score_batch(probes, overflow="window"))

    exact, differences = scores([]), {}
    for done, (group, linears) in enumerate(groups.items(), start=1):
        differences[group] = float(np.abs(scores(linears) - exact).mean())
        step(done, len(groups))
    return differences


@dataclass(frozen=True)
class Allowed:
    """What can have 8 bits together."""

    count: int
    """The first so many groups."""
    failures: list[str]
    """The limits that one group more exceeds; none if all groups are allowed."""


def most_allowed(
    order: Sequence[Sequence[str]],
    scorer_with: ScorerWith,
    reference: Reference,
    manifest: Manifest,
    step: Step,
) -> Allowed:
    """How many of the first groups of ``order`` can have 8 bits together and keep
    :data:`~rfprm_export.gate.STRICT_GATE`. ``step`` is called with the trials made and the most
    that there can be."""
    gate, trials = STRICT_GATE.for_size_of(manifest), len(order).bit_length()
    low, high, made, exceeded = 0, len(order), 0, list[str]()
    while low < high:
        middle = (low + high + 1) // 2
        with scorer_with([name for group in order[:middle] for name in group]) as scorer:
            failures = trial_failures(scorer, reference, gate)
        if failures:
            high, exceeded = middle - 1, failures
        else:
            low = middle
        made += 1
        step(made, trials)
    return Allowed(low, exceeded)


def none_allowed(
    kind: str,
    differences: Mapping[str, float],
    failures: Sequence[str],
    reference: Reference,
    otherwise: str,
) -> ExportError:
    """The error for a model in which no linear can have 8 bits: which limits (``failures``) even
    the one that loses least exceeds, and those that lose most."""
    by_difference = sorted(differences, key=differences.__getitem__, reverse=True)
    blame = ", ".join(f"{name} ({differences[name]:.4f})" for name in by_difference[:4])
    return ExportError(
        f"no linear layer of this model can have {kind}: on {reference.traces} even one of those "
        f"that lose least changes the scores more than allowed: {'; '.join(failures)}. The worst "
        f"alone, with the mean change of a score: {blame}. Nothing was written; export with "
        f"--precision {otherwise}"
    )
