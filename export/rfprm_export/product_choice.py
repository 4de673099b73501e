"""Which products can have fewer bits: each measured by itself, then as many as go together.

Knows names and a way to score with some of them in 8 bits; how that is done its callers know.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.verify import CHOICE, Reference, all_scores, gate_failures, measure_parity
from rfprm_runtime.scorer import Scorer

ScorerWith = Callable[[Collection[str]], AbstractContextManager[Scorer]]
"""A scorer in which these products have 8 bits and the others do not."""
_PROBES = 16
"""Trajectories on which each group is measured by itself."""


def differences_alone(
    groups: Mapping[str, Sequence[str]], scorer_with: ScorerWith, reference: Reference
) -> dict[str, float]:
    """The mean difference of a score when one group of products alone has 8 bits, by group."""
    # Spread over the file, so that they are of different questions.
    step = max(1, len(reference.trajectories) // _PROBES)
    probes = reference.trajectories[::step][:_PROBES]

    def scores(in_8_bits: Collection[str]) -> NDArray[np.float64]:
        with scorer_with(in_8_bits) as scorer:
            return all_scores(scorer.score_batch(probes, overflow="window"))

    exact = scores([])
    return {
        group: float(np.abs(scores(products) - exact).mean()) for group, products in groups.items()
    }


def most_that_can(
    order: Sequence[Sequence[str]], scorer_with: ScorerWith, reference: Reference
) -> int:
    """How many groups, from the first of ``order`` on, can have 8 bits together and keep
    :data:`~rfprm_export.verify.CHOICE`."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        with scorer_with([name for group in order[:middle] for name in group]) as scorer:
            parity = measure_parity(scorer, reference)
        if gate_failures(parity, CHOICE):
            high = middle - 1
        else:
            low = middle
    return low


def nothing_can(
    kind: str, differences: Mapping[str, float], reference: Reference, otherwise: str
) -> ExportError:
    """The error for a model in which no product can have 8 bits, naming what loses most."""
    worst = sorted(differences, key=differences.__getitem__, reverse=True)[:4]
    blame = ", ".join(f"{name} ({differences[name]:.4f})" for name in worst)
    return ExportError(
        f"no matrix product of this model can have {kind} without changing more of "
        f"{reference.traces} than is allowed; alone, these change a score most: {blame}. "
        f"Nothing was written; export with --precision {otherwise}"
    )
