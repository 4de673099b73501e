"""Which matrix products can have 8 bits: measured on real traces, each by itself and then together.

Half the bits is up to twice the speed, but 8 of them are too few for some products of every model,
and for most products of small ones. The others keep 16.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.checkpoint import LoadedPRM
from rfprm_export.pack import product_names, write_packed
from rfprm_export.verify import (
    CHOICE,
    Reference,
    all_scores,
    gate_failures,
    measure_parity,
    scorer_over,
)
from rfprm_runtime.backends.native import NativeBackend
from rfprm_runtime.manifest import ProductRecord
from rfprm_runtime.native.model_file import LINEARS, NativeModel, linear_shapes

_PROBES = 16
"""Trajectories on which each product is measured by itself."""


def choose_short_products(
    prm: LoadedPRM, reference: Reference, work: Path
) -> tuple[ProductRecord, ...]:
    """Every product with the bits it should have; ``work`` is a folder for what is written between.

    Products are taken in the order of what they gain (multiplications) for what they cost (the
    square of the mean difference that they make alone), as many as keep
    :data:`~rfprm_export.verify.CHOICE` together. Raises :class:`ExportError` where none can have 8
    bits, naming the ones that lose most.
    """
    shape, head = prm.manifest.backbone, prm.manifest.head
    names = product_names(shape)
    paths = [work / "long.safetensors", work / "short.safetensors"]
    for path, short in zip(paths, ([], names), strict=True):
        write_packed(path, shape, head, prm.weights, short=short)
    backend = NativeBackend(paths[0], prm.manifest)
    mixed = _Mixed(prm, backend, NativeModel(paths[1], prm.manifest))
    differences = mixed.differences(names, reference)
    sizes = linear_shapes(shape)
    gains = {name: float(np.prod(sizes[name.rpartition(".")[2]])) for name in names}
    order = sorted(names, key=lambda name: differences[name] ** 2 / gains[name])
    count = mixed.most_that_can(order, reference)
    mixed.close()
    for path in paths:
        path.unlink()
    if not count:
        worst = sorted(names, key=differences.__getitem__, reverse=True)[: len(LINEARS)]
        blame = ", ".join(f"{name} ({differences[name]:.4f})" for name in worst)
        raise ExportError(
            "no matrix product of this model can have 8 bits without changing more of "
            f"{reference.traces} than is allowed; alone, these change a score most: {blame}. "
            "Nothing was written; export with --precision int16 or fp32"
        )
    return tuple(
        ProductRecord(
            name=name, bits=8 if name in order[:count] else 16, difference=differences[name]
        )
        for name in names
    )


class _Mixed:
    """One scorer whose products are switched between 16 and 8 bits."""

    def __init__(self, prm: LoadedPRM, backend: NativeBackend, short: NativeModel) -> None:
        self._backend, self._short = backend, short
        self._scorer = scorer_over(prm, backend)

    def close(self) -> None:
        self._scorer.close()

    def differences(self, names: list[str], reference: Reference) -> dict[str, float]:
        """The mean difference of a score when one product alone has 8 bits, by product."""
        # Spread over the file, so that they are of different questions.
        step = max(1, len(reference.trajectories) // _PROBES)
        probes = reference.trajectories[::step][:_PROBES]

        def scores(short: Collection[str]) -> NDArray[np.float64]:
            self._backend.use_short(self._short, short)
            return all_scores(self._scorer.score_batch(probes, overflow="window"))

        exact = scores([])
        return {name: float(np.abs(scores([name]) - exact).mean()) for name in names}

    def most_that_can(self, order: list[str], reference: Reference) -> int:
        """How many products, from the first of ``order`` on, can have 8 bits together."""
        low, high = 0, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            self._backend.use_short(self._short, order[:middle])
            if gate_failures(measure_parity(self._scorer, reference), CHOICE):
                high = middle - 1
            else:
                low = middle
        return low
