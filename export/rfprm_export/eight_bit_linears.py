"""Chooses the linears of the native kernels that can have 8 bits.

Half the bits can double the speed, but 8 are too few for some linears of every model, and for most
linears of a small one. Those keep 16.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rfprm_export.in_parts import ending
from rfprm_export.linear_choice import differences_alone, most_allowed, none_allowed
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.native_file import write_native
from rfprm_export.panels import linear_names
from rfprm_export.reference import Reference, scorer_over
from rfprm_export.stored_weights import stay_in_files
from rfprm_runtime.artifact.build_records import ProductRecord
from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.backends.native.backend import NativeBackend
from rfprm_runtime.backends.native.layered import LayeredNative
from rfprm_runtime.backends.native.limits import linear_shapes
from rfprm_runtime.backends.native.model_file import NativeModel
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.ground.progress import Progress, silent, stage
from rfprm_runtime.scorer import Scorer

TakeLinears = Callable[[Collection[str]], None]


def choose_8_bit_linears(
    prm: LoadedPRM, reference: Reference, work: Path, progress: Progress = silent
) -> tuple[ProductRecord, ...]:
    """Every linear with its number of bits; ``work`` is a folder for temporary files.

    Switches linears to 8 bits as long as they keep :data:`~rfprm_export.gate.STRICT_GATE`
    together, those with the smallest cost (squared mean difference when alone in 8 bits) per gain
    (multiplications) first. Raises :class:`ExportError` if none can have 8 bits, naming those that
    lose most.
    """
    shape, head = prm.manifest.backbone, prm.manifest.head
    names = linear_names(shape)
    paths = [work / "16-bit.safetensors", work / "8-bit.safetensors"]
    for path, in_8_bits, bits in zip(paths, ([], names), (16, 8), strict=True):
        step = stage(progress, f"writing trial in {bits} bits, tensor")
        write_native(path, shape, head, prm.weights, in_8_bits=in_8_bits, step=step)
    walk = Walk()
    opened = _open_in_parts if stay_in_files(prm.weights) else _open_whole
    backend, take_8_bits = opened(paths[0], paths[1], prm.manifest, walk)
    with ending(scorer_over(prm, backend), walk) as scorer:

        @contextmanager
        def scorer_with(in_8_bits: Collection[str]) -> Iterator[Scorer]:
            take_8_bits(in_8_bits)
            yield scorer

        alone = stage(progress, "linear alone in 8 bits")
        groups = {name: [name] for name in names}
        differences = differences_alone(groups, scorer_with, reference, prm.manifest, alone)
        sizes = linear_shapes(shape)
        gains = {name: float(np.prod(sizes[name.rpartition(".")[2]])) for name in names}
        order = sorted(names, key=lambda name: differences[name] ** 2 / gains[name])
        together = stage(progress, "linears together in 8 bits, trial")
        sets = [[name] for name in order]
        allowed = most_allowed(sets, scorer_with, reference, prm.manifest, together)
    for path in paths:
        path.unlink()
    if not allowed.count:
        raise none_allowed("8 bits", differences, allowed.failures, reference, "int16 or fp32")
    chosen = frozenset(order[: allowed.count])
    return tuple(
        ProductRecord(name=name, bits=8 if name in chosen else 16, difference=differences[name])
        for name in names
    )


def _open_whole(
    in_16_bits: Path, in_8_bits: Path, manifest: Manifest, walk: Walk
) -> tuple[Backend, TakeLinears]:
    """A backend, and what gives linears of these names 8 bits, and all others 16."""
    backend, other = NativeBackend(in_16_bits, manifest), NativeModel(in_8_bits, manifest)
    return backend, lambda names: backend.take_linears(other, names)


def _open_in_parts(
    in_16_bits: Path, in_8_bits: Path, manifest: Manifest, walk: Walk
) -> tuple[Backend, TakeLinears]:
    backend = LayeredNative(ModelFile.of(in_16_bits), manifest, walk=walk)
    other = ModelFile.of(in_8_bits)
    return backend, lambda names: backend.take_linears(other, names)
