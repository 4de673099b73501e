"""Verifies that an exported model is faithful: compares its scores with the reference's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.gate import Gate, gate_failures, lasting_failures
from rfprm_export.gate_traces import groups_of_4
from rfprm_export.reference import Reference
from rfprm_runtime.artifact.build_records import Parity
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import TrajectoryScore

_PARTS = 4
"""A part of the traces costs a reading of all weights where they are not kept in memory."""


def measure_parity(
    scorer: Scorer, reference: Reference, on_scored: Callable[[int], object] | None = None
) -> Parity:
    """Compare every step and trajectory score of ``scorer`` with the reference's. ``on_scored``: as
    of :meth:`Scorer.score_batch`."""
    scores = scorer.score_batch(reference.trajectories, overflow="window", on_scored=on_scored)
    return _parity(scorer, scores, reference)


def trial_failures(scorer: Scorer, reference: Reference, gate: Gate) -> list[str]:
    """The limits of ``gate`` that ``scorer`` exceeds; empty if and only if :func:`measure_parity`
    and :func:`gate_failures` would find none. The traces are scored in parts, and no further once
    a limit is exceeded for good."""
    trajectories, scores = reference.trajectories, list(reference.scores)
    groups = groups_of_4(trajectories)
    grouped = [index for group in groups for index in group]
    others = sorted(set(range(len(trajectories))) - set(grouped))
    order = grouped + others
    num_scored = 0
    for part in np.array_split(np.array(order), max(1, min(_PARTS, len(order)))):
        found = scorer.score_batch([trajectories[index] for index in part], overflow="window")
        for index, score in zip(part, found, strict=True):
            scores[index] = score
        num_scored += len(part)
        # What is not scored yet stands there with the reference's own scores.
        parity = _parity(scorer, scores, reference)
        failures = lasting_failures(parity, gate)
        if failures and num_scored < len(order):
            rest = f"after {num_scored} of {len(order)} traces, the others taken to be exact"
            return [f"{failure} ({rest})" for failure in failures]
    return gate_failures(parity, gate)


def _parity(scorer: Scorer, scores: Sequence[TrajectoryScore], reference: Reference) -> Parity:
    ours, theirs = all_scores(scores), all_scores(reference.scores)
    if not len(ours):
        raise ExportError(f"the traces to verify on ({reference.traces}) hold no trajectory")
    unit = _unit(scorer.manifest, theirs)
    difference = np.abs(ours - theirs) / unit
    groups = groups_of_4(reference.trajectories)
    same = [_best(scores, group) == _best(reference.scores, group) for group in groups]
    return Parity(
        reference=reference.description,
        measured_on=scorer.backend_description,
        traces=reference.traces,
        num_trajectories=len(reference.trajectories),
        num_scores=len(ours),
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        unit=unit,
        spearman=rank_correlation(ours, theirs),
        num_groups=len(groups),
        same_best_of_4=sum(same) / len(same) if same else None,
    )


def _unit(manifest: Manifest, scores: NDArray[np.float64]) -> float:
    """How far scores reach, so that one limit fits probabilities and raw rewards."""
    readouts = [x for x in (manifest.step_readout, manifest.trajectory_readout) if x is not None]
    bounds = [readout.bounds for readout in readouts]
    widths = [high - low for low, high in (found for found in bounds if found is not None)]
    if len(widths) == len(bounds):
        return max(widths)
    # Numbers spread evenly over a width w have a standard deviation of w / √12.
    return max(float(scores.std()) * 12**0.5, np.finfo(np.float32).tiny.item())


def _best(scores: Sequence[TrajectoryScore], group: list[int]) -> int:
    return max(group, key=lambda index: scores[index].reward)  # ties go to the first


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Spearman's ρ, with the mean rank for ties; None if either side is constant, or empty."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if len(ranks_a) == 0 or np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return None
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last_of_tie = np.cumsum(counts)
    mean_rank = last_of_tie - (counts - 1) / 2
    result: NDArray[np.float64] = mean_rank[inverse]
    return result


def all_scores(scores: Sequence[TrajectoryScore]) -> NDArray[np.float64]:
    parts = [score.step_scores.astype(np.float64) for score in scores]
    parts += [
        np.array([score.trajectory_score]) for score in scores if score.trajectory_score is not None
    ]
    return np.concatenate(parts) if parts else np.empty(0)
