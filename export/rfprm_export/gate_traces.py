"""How many of the shipped traces the gate compares, and which of them.

All for a small model. A large one would take hours, so it gets fewer, spread over the file, and
what few traces cannot show is said with them (:mod:`rfprm_runtime.artifact.parity`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.network_tensors import network_tensors

_COUNTS = ((1e9, 256), (4e9, 128), (math.inf, 64))
"""Parameters up to which a model is compared on so many traces."""


def num_parameters(manifest: Manifest) -> int:
    return sum(math.prod(shape) for _, shape in network_tensors(manifest.backbone, manifest.head))


def num_gate_traces(manifest: Manifest) -> int:
    """How many traces, four to a question, a model of this size is compared on."""
    found = num_parameters(manifest)
    return next(count for limit, count in _COUNTS if found <= limit)


def spread_over(groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """The members of so many ``groups``, at equal distances, that there are ``count``, or all."""
    size = sum(map(len, groups)) / max(1, len(groups))
    num_groups = min(len(groups), math.ceil(count / max(1.0, size)))
    chosen = [groups[index * len(groups) // num_groups] for index in range(num_groups)]
    return sorted(member for group in chosen for member in group)
