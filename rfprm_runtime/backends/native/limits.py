"""What the kernels assume about a model, in one place.

Export asks here before it writes a model, and :mod:`~rfprm_runtime.backends.native.model_file`
before the kernels see one, whatever wrote it: the C code itself checks nothing. Whatever this lets
through may give any number, but touches only its own memory, and no sum of integers overflows.
"""

from __future__ import annotations

import math

from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.errors import ArtifactError, RfprmError

LANES = 16
"""Rows are read this many numbers at a time (AVX-512; the other variants read fewer)."""
PANEL = 64
"""Output columns of a panel of weights."""
HALF_PANEL = 32
"""A panel of gate_up holds this many gate columns, then as many up columns."""
LINEARS = ("qkv", "output", "gate_up", "down")
MAX_DEPTH = 2**17
"""Inputs of a linear: products of 8-bit inputs and weights, 127 · 128, then add up to less than
2^31."""
MAX_TABLE_BYTES = 2**29
"""Of the rotary tables: a million positions of heads of 128."""
_SUM_LIMIT = 2.0**31 - 2.0**20

_WAYS_OUT = {
    "int16": "export with --precision fp32",
    "float32": "load it with backend='onnx' or 'torch'",
}


def check_fits(
    shape: Backbone,
    max_positions: int,
    *,
    numbers: str = "int16",
    refusal: type[RfprmError] = ArtifactError,
) -> None:
    """Raises ``refusal`` if the kernels for ``numbers`` do not support such a model."""
    way_out = _WAYS_OUT[numbers]
    check_shape(shape, way_out, refusal=refusal)
    table_bytes = max_positions * shape.head_dim * 4
    if not 0 < table_bytes <= MAX_TABLE_BYTES:
        raise refusal(
            f"the model has {max_positions} positions of heads of {shape.head_dim}, but the native "
            f"kernels support 1 to {MAX_TABLE_BYTES // (4 * shape.head_dim)}; {way_out}"
        )


def check_shape(
    shape: Backbone,
    way_out: str = _WAYS_OUT["int16"],
    *,
    refusal: type[RfprmError] = ArtifactError,
) -> None:
    """The part of :func:`check_fits` that concerns the weights."""
    for name in ("hidden_size", "head_dim"):
        size = getattr(shape, name)
        if size < 1 or size % LANES:
            raise refusal(
                f"the model's {name} is {size}, but the native kernels support multiples of "
                f"{LANES}; {way_out}"
            )
    for part, (depth, width) in linear_shapes(shape).items():
        if not 0 < depth <= MAX_DEPTH or width <= 0:
            raise refusal(
                f"the model's {part} has {depth} inputs and {width} outputs, but the native "
                f"kernels support 1 to {MAX_DEPTH} inputs; {way_out}"
            )
    if shape.num_kv_heads < 1 or shape.num_heads < 1 or shape.num_heads % shape.num_kv_heads:
        raise refusal(
            f"the model has {shape.num_heads} heads of queries and {shape.num_kv_heads} of keys, "
            f"but the native kernels support multiples; {way_out}"
        )


def linear_shapes(shape: Backbone) -> dict[str, tuple[int, int]]:
    """Inputs and outputs, padded to whole panels, of a layer's four linears."""
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    hidden, inner = shape.hidden_size, padded_inner(shape)
    return {
        "qkv": (hidden, round_up(queries + 2 * keys, PANEL)),
        "output": (queries, round_up(hidden, PANEL)),
        "gate_up": (hidden, 2 * inner),
        "down": (inner, round_up(hidden, PANEL)),
    }


def padded_inner(shape: Backbone) -> int:
    return round_up(shape.intermediate_size, HALF_PANEL)


def round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def input_limit(longest: int, depth: int) -> float:
    """The largest L2 norm of a row of quantised inputs for which no sum of products with 16-bit
    weights leaves 32 bits, by Cauchy and Schwarz. ``longest``: the largest sum of squares of a
    column's weights."""
    # Subtracts what rounding may add to a row of inputs: half a unit per entry.
    return _SUM_LIMIT / max(math.sqrt(longest), 1.0) - 0.5 * math.sqrt(depth)


def check_input_limit(limit: float, longest: int, depth: int, name: str) -> None:
    """Raises :class:`ArtifactError` if rows within ``limit`` can make the sums of the 16-bit linear
    ``name`` overflow."""
    most = input_limit(longest, depth)
    if not 0 < limit <= most:
        raise ArtifactError(
            f"{name} has an activation limit of {limit!r}, expected more than 0 and at most "
            f"{most!r}, or its sums would leave 32 bits; export the model again"
        )
