"""Chooses linears for 8 bits: measures each alone, then finds how many are allowed together.

Knows names and how to score with some of them in 8 bits; its callers know the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.verify import STRICT_GATE, Reference, all_scores, gate_failures, measure_parity
from rfprm_runtime.scorer import Scorer

ScorerWith = Callable[[Collection[str]], AbstractContextManager[Scorer]]
"""Opens a scorer in which these linears, and no others, have 8 bits."""
_PROBES = 16
"""Number of trajectories on which each group is measured alone."""


def differences_alone(
    groups: Mapping[str, Sequence[str]], scorer_with: ScorerWith, reference: Reference
) -> dict[str, float]:
    """The mean difference of the scores when only one group of linears has 8 bits, by group."""
    # Spread over the file, so that they belong to different questions.
    step = max(1, len(reference.trajectories) // _PROBES)
    probes = reference.trajectories[::step][:_PROBES]

    def scores(in_8_bits: Collection[str]) -> NDArray[np.float64]:
        with scorer_with(in_8_bits) as scorer:
            return all_scores(scorer.score_batch(probes, overflow="window"))

    exact = scores([])
    return {
        group: float(np.abs(scores(linears) - exact).mean()) for group, linears in groups.items()
    }


def most_allowed(
    order: Sequence[Sequence[str]], scorer_with: ScorerWith, reference: Reference
) -> int:
    """How many of the first groups of ``order`` can have 8 bits together and keep
    :data:`~rfprm_export.verify.STRICT_GATE`."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        with scorer_with([name for group in order[:middle] for name in group]) as scorer:
            parity = measure_parity(scorer, reference)
        if gate_failures(parity, STRICT_GATE):
            high = middle - 1
        else:
            low = middle
    return low


def none_allowed(
    kind: str, differences: Mapping[str, float], reference: Reference, otherwise: str
) -> ExportError:
    """The error for a model in which no linear can have 8 bits, naming those that lose most."""
    worst = sorted(differences, key=differences.__getitem__, reverse=True)[:4]
    blame = ", ".join(f"{name} ({differences[name]:.4f})" for name in worst)
    return ExportError(
        f"no linear layer of this model can have {kind}: on {reference.traces} the scores change "
        f"more than allowed. The worst alone, with the mean change of a score: {blame}. Nothing "
        f"was written; export with --precision {otherwise}"
    )
