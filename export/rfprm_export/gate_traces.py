"""How many of the shipped traces the gate compares, and which of them.

All for a small model. A large one would take hours, so it gets fewer, spread over the file, and
what few traces cannot show is said with them (:mod:`rfprm_runtime.artifact.parity`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rfprm_export import ExportError
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.network_tensors import network_tensors
from rfprm_runtime.errors import TraceTooLongError
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.prompt.prepared import prepare
from rfprm_runtime.types import Trajectory, Windows

_COUNTS = ((1e9, 256), (4e9, 128), (math.inf, 64))
"""Parameters up to which a model is compared on so many traces."""
_PROBES = ((1e9, 16), (math.inf, 8))
"""Parameters up to which each linear is tried alone on so many. That only ranks them: what they
cost together is measured on all."""


def num_parameters(manifest: Manifest) -> int:
    return sum(math.prod(shape) for _, shape in network_tensors(manifest.backbone, manifest.head))


def num_gate_traces(manifest: Manifest) -> int:
    """How many traces, four to a question, a model of this size is compared on."""
    return _by_size(_COUNTS, manifest)


def num_probes(manifest: Manifest) -> int:
    """How many traces each linear of a model of this size is tried on alone."""
    return _by_size(_PROBES, manifest)


def _by_size(counts: Sequence[tuple[float, int]], manifest: Manifest) -> int:
    found = num_parameters(manifest)
    return next(count for limit, count in counts if found <= limit)


def traces_that_fit(
    trajectories: Sequence[Trajectory], label: str, prm: LoadedPRM, needed: int
) -> tuple[list[int], str]:
    """Which of the shipped traces fit into the model's positions, in windows where need be, and
    their ``label``: a model may have few positions, which is not the traces' fault.

    Raises :class:`ExportError` if there are fewer than ``needed``.
    """
    encoder, positions = prm.encoder(), prm.manifest.max_positions
    found = [i for i, one in enumerate(trajectories) if _fits(one, encoder, prm.manifest)]
    if len(found) == len(trajectories):
        return found, label
    some = f"{len(found)} of the {len(trajectories)} {label}"
    if len(found) < needed:
        raise ExportError(
            f"the model has {positions} positions (max_position_embeddings), into which {some} "
            f"fit, and the export is verified on at least {needed}; give shorter traces with "
            "--verify-traces, or see whether config.json is right"
        )
    return found, f"{some}, which fit into {positions} positions"


def _fits(trajectory: Trajectory, encoder: TrajectoryEncoder, manifest: Manifest) -> bool:
    try:
        prepare(trajectory, encoder, manifest, windows=Windows(), score_prefixes=False)
    except TraceTooLongError:
        return False
    return True


def groups_of_4(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """Indices of the first four trajectories of each question that has at least four."""
    by_question: dict[str, list[int]] = {}
    for index, trajectory in enumerate(trajectories):
        by_question.setdefault(trajectory.question, []).append(index)
    return [group[:4] for group in by_question.values() if len(group) >= 4]


def few_enough(
    trajectories: Sequence[Trajectory], label: str, manifest: Manifest
) -> tuple[list[int], str]:
    """Which of these a model of this size is compared on, and their label."""
    count, total = num_gate_traces(manifest), len(trajectories)
    if total <= count:
        return list(range(total)), label
    chosen = spread_over(groups_of_4(trajectories), count)
    return chosen, f"{len(chosen)} of the {total} {label}"


def spread_over(groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """The members of so many ``groups``, at equal distances, that there are ``count``, or all."""
    size = sum(map(len, groups)) / max(1, len(groups))
    num_groups = min(len(groups), math.ceil(count / max(1.0, size)))
    chosen = [groups[index * len(groups) // num_groups] for index in range(num_groups)]
    return sorted(member for group in chosen for member in group)
