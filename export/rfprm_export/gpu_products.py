"""Which matrix products of a graph can have 8 bits on a GPU: all, or those of some layers."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from rfprm_export import ExportError
from rfprm_export.calibration import largest_inputs
from rfprm_export.checkpoint import LoadedPRM
from rfprm_export.emulation import emulating_scorer
from rfprm_export.float_types import FloatType
from rfprm_export.options import Precision
from rfprm_export.product_choice import differences_alone, most_that_can, nothing_can
from rfprm_export.quantization import Quantization
from rfprm_export.verify import CHOICE, Reference, gate_failures, measure_parity
from rfprm_runtime.artifact.manifest import Backbone, ProductRecord
from rfprm_runtime.errors import BackendError
from rfprm_runtime.scorer import Scorer

_CALIBRATION_TRACES = 64
_PARTS = ("self_attn.qkv", "self_attn.o_proj", "mlp.gate_up", "mlp.down_proj")


def layer_products(shape: Backbone) -> dict[str, list[str]]:
    """``layers.0`` → the names of its products in the graph."""
    return {
        f"layers.{index}": [f"model.layers.{index}.{part}" for part in _PARTS]
        for index in range(shape.num_layers)
    }


def _best_float_type(prm: LoadedPRM, reference: Reference) -> FloatType:
    try:
        with emulating_scorer(prm, "fp16") as scorer:
            failures = gate_failures(measure_parity(scorer, reference), CHOICE)
    except (ExportError, BackendError):  # a weight, or a score that is not finite
        return "bf16"
    return "bf16" if failures else "fp16"


def choose_gpu_products(
    prm: LoadedPRM, reference: Reference, precision: Precision
) -> tuple[Quantization, tuple[ProductRecord, ...]]:
    """All products in 8 bits where that keeps :data:`~rfprm_export.verify.CHOICE`; otherwise the
    layers that cost least by themselves, as many as keep it together. The rest is in fp16 where
    that keeps it, which leaves more to the products, and in bf16 where activations leave fp16.

    ``precision``: ``fp8`` or ``w8a16``. Raises :class:`ExportError` where no layer can.
    """
    layers = layer_products(prm.manifest.backbone)
    names = [name for products in layers.values() for name in products]
    float_type = _best_float_type(prm, reference)
    if precision == "fp8":
        step = max(1, len(reference.trajectories) // _CALIBRATION_TRACES)
        largest = largest_inputs(prm, reference.trajectories[::step])
        everything = Quantization("fp8", float_type, largest)
    else:
        everything = Quantization("w8a16", float_type)

    def scorer_with(short: Collection[str]) -> AbstractContextManager[Scorer]:
        kept = frozenset(names) - frozenset(short)
        return emulating_scorer(prm, float_type, replace(everything, kept=kept))

    with scorer_with(names) as scorer:
        failures = gate_failures(measure_parity(scorer, reference), CHOICE)
    if not failures:
        return everything, tuple(ProductRecord(name=name, bits=8) for name in names)
    differences = differences_alone(layers, scorer_with, reference)
    order = sorted(layers, key=differences.__getitem__)
    count = most_that_can([layers[layer] for layer in order], scorer_with, reference)
    if not count:
        raise nothing_can(precision, differences, reference, "bf16")
    short = frozenset(name for layer in order[:count] for name in layers[layer])
    records = tuple(
        ProductRecord(name=name, bits=8 if name in short else 16, difference=differences[layer])
        for layer, products in layers.items()
        for name in products
    )
    return replace(everything, kept=frozenset(names) - short), records
