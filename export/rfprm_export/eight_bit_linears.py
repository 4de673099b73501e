"""Chooses the linears of the native kernels that can have 8 bits.

Half the bits can double the speed, but 8 are too few for some linears of every model, and for most
linears of a small one. Those keep 16.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rfprm_export.linear_choice import differences_alone, most_allowed, none_allowed
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.native_file import write_native
from rfprm_export.panels import linear_names
from rfprm_export.verify import Reference, scorer_over
from rfprm_runtime.artifact.manifest import ProductRecord
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.backends.native.limits import linear_shapes
from rfprm_runtime.backends.native.model_file import NativeModel
from rfprm_runtime.scorer import Scorer


def choose_8_bit_linears(
    prm: LoadedPRM, reference: Reference, work: Path
) -> tuple[ProductRecord, ...]:
    """Every linear with its number of bits; ``work`` is a folder for temporary files.

    Switches linears to 8 bits as long as they keep :data:`~rfprm_export.verify.STRICT_GATE`
    together, those with the smallest cost (squared mean difference when alone in 8 bits) per gain
    (multiplications) first. Raises :class:`ExportError` if none can have 8 bits, naming those that
    lose most.
    """
    shape, head = prm.manifest.backbone, prm.manifest.head
    names = linear_names(shape)
    paths = [work / "16-bit.safetensors", work / "8-bit.safetensors"]
    for path, in_8_bits in zip(paths, ([], names), strict=True):
        write_native(path, shape, head, prm.weights, in_8_bits=in_8_bits)
    backend = NativeBackend(paths[0], prm.manifest)
    model_in_8_bits = NativeModel(paths[1], prm.manifest)
    with scorer_over(prm, backend) as scorer:

        @contextmanager
        def scorer_with(in_8_bits: Collection[str]) -> Iterator[Scorer]:
            backend.take_linears(model_in_8_bits, in_8_bits)
            yield scorer

        differences = differences_alone({name: [name] for name in names}, scorer_with, reference)
        sizes = linear_shapes(shape)
        gains = {name: float(np.prod(sizes[name.rpartition(".")[2]])) for name in names}
        order = sorted(names, key=lambda name: differences[name] ** 2 / gains[name])
        count = most_allowed([[name] for name in order], scorer_with, reference)
    for path in paths:
        path.unlink()
    if not count:
        raise none_allowed("8 bits", differences, reference, "int16 or fp32")
    return tuple(
        ProductRecord(
            name=name, bits=8 if name in order[:count] else 16, difference=differences[name]
        )
        for name in names
    )
