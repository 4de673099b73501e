"""Chooses the linears of a graph that can have 8 bits on a GPU: all, or those of some layers."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from rfprm_export import ExportError
from rfprm_export.choices import Precision
from rfprm_export.emulation import emulating_scorer
from rfprm_export.float_types import FloatType
from rfprm_export.gate import STRICT_GATE
from rfprm_export.largest_inputs import largest_inputs
from rfprm_export.linear_choice import differences_alone, most_allowed, none_allowed
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.quantization import Quantization
from rfprm_export.reference import Reference
from rfprm_export.verify import trial_failures
from rfprm_runtime.artifact.build_records import ProductRecord
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.progress import Progress, silent, stage
from rfprm_runtime.scorer import Scorer

_CALIBRATION_TRACES = 64
_PARTS = ("self_attn.qkv", "self_attn.o_proj", "mlp.gate_up", "mlp.down_proj")


def layer_linears(shape: Backbone) -> dict[str, list[str]]:
    """``layers.0`` → the names of its linears in the graph."""
    return {
        f"layers.{index}": [f"model.layers.{index}.{part}" for part in _PARTS]
        for index in range(shape.num_layers)
    }


def _best_float_type(prm: LoadedPRM, reference: Reference) -> FloatType:
    try:
        with emulating_scorer(prm, "fp16") as scorer:
            gate = STRICT_GATE.for_size_of(prm.manifest)
            return "bf16" if trial_failures(scorer, reference, gate) else "fp16"
    except (ExportError, BackendError):  # a weight does not fit, or a score is not finite
        return "bf16"


def choose_gpu_linears(
    prm: LoadedPRM, reference: Reference, precision: Precision, progress: Progress = silent
) -> tuple[Quantization, tuple[ProductRecord, ...]]:
    """The quantization, and every linear with its number of bits.

    All linears have 8 bits if that keeps :data:`~rfprm_export.gate.STRICT_GATE`; otherwise the
    layers that cost least when alone in 8 bits, as many as keep it together. The rest of the graph
    is in fp16 if that keeps the gate, which leaves more tolerance for the linears, and otherwise in
    bf16.

    ``precision``: ``fp8`` or ``w8a16``. Raises :class:`ExportError` if no layer can have 8 bits.
    """
    layers = layer_linears(prm.manifest.backbone)
    names = [name for linears in layers.values() for name in linears]
    float_type = _best_float_type(prm, reference)
    if precision == "fp8":
        step = max(1, len(reference.trajectories) // _CALIBRATION_TRACES)
        largest = largest_inputs(prm, reference.trajectories[::step])
        everything = Quantization("fp8", float_type, largest)
    else:
        everything = Quantization("w8a16", float_type)

    def scorer_with(in_8_bits: Collection[str]) -> AbstractContextManager[Scorer]:
        kept = frozenset(names) - frozenset(in_8_bits)
        return emulating_scorer(prm, float_type, replace(everything, kept=kept))

    with scorer_with(names) as scorer:
        gate = STRICT_GATE.for_size_of(prm.manifest)
        failures = trial_failures(scorer, reference, gate)
    if not failures:
        return everything, tuple(ProductRecord(name=name, bits=8) for name in names)
    alone = stage(progress, "layer alone in 8 bits")
    differences = differences_alone(layers, scorer_with, reference, prm.manifest, alone)
    order = sorted(layers, key=differences.__getitem__)
    together = stage(progress, "layers together in 8 bits, trial")
    sets = [layers[layer] for layer in order]
    allowed = most_allowed(sets, scorer_with, reference, prm.manifest, together)
    if not allowed.count:
        raise none_allowed(precision, differences, allowed.failures, reference, "bf16")
    in_8_bits = frozenset(name for layer in order[: allowed.count] for name in layers[layer])
    records = tuple(
        ProductRecord(name=name, bits=8 if name in in_8_bits else 16, difference=differences[layer])
        for layer, linears in layers.items()
        for name in linears
    )
    return replace(everything, kept=frozenset(names) - in_8_bits), records
