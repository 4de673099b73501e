"""The rotary embedding in a GGUF file. Sources: llama.cpp's converter and loader."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rfprm_export import ExportError
from rfprm_export.gguf_fields import GgufFields
from rfprm_export.gguf_file import GgufTensor
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.artifact.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
)
from rfprm_runtime.backends.rotary import rotary_frequencies
from rfprm_runtime.ground.arguments import shown

FREQUENCIES_NAME = "rope_freqs.weight"
"""The tensor by which frequencies are divided, instead of the fields of Llama 3's scaling."""
_USUAL_THETA = 10_000.0
"""What llama.cpp takes where the field is missing, as for Llama 1 and 2."""
_LLAMA3: dict[str, Any] = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_positions": 8192,
}
"""Of every published Llama 3.1, 3.2 and 3.3."""

_YARN = {
    "{arch}.rope.scaling.yarn_ext_factor": 1.0,
    "{arch}.rope.scaling.yarn_attn_factor": 1.0,
    "{arch}.rope.scaling.yarn_log_multiplier": 0.0,
}
"""Fields of other models, with the values that mean nothing."""


def read_gguf_rope(
    fields: GgufFields, divisors: GgufTensor | None
) -> tuple[float, RopeScaling | None]:
    """θ and the scaling. Raises :class:`ExportError` for one that is not supported. That of Llama 3
    is a guess by the largest divisor, until :func:`check_divisors` was passed."""
    theta = float(str(np.float32(fields.number("{arch}.rope.freq_base", _USUAL_THETA))))
    scaling = _scaling(fields)
    if divisors is None:
        return theta, scaling
    if scaling is not None:
        raise ExportError(f"it scales its rotary embedding both by {shown(scaling)} and by a table")
    return theta, _llama3(divisors)


def _scaling(fields: GgufFields) -> RopeScaling | None:
    old = fields.number("{arch}.rope.scale_linear", 1.0)  # of the first files
    kind = fields.text("{arch}.rope.scaling.type", "none" if old == 1 else "linear")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ExportError(
            f"it scales its rotary embedding by {shown(kind)}, the graph builder supports linear, "
            "yarn and Llama 3's table"
        )
    factor = fields.number("{arch}.rope.scaling.factor", old)
    for name, usual in _YARN.items():
        if fields.number(name, usual) != usual:
            field = name.format(arch=fields.architecture)
            raise ExportError(
                f"it has {field!r} {fields.number(name)}, the graph builder supports only {usual}"
            )
    if kind == "linear":
        return LinearScaling(factor=factor)
    grown = 0.1 * math.log(max(factor, 1)) + 1  # Eq. 22 of the paper
    return YarnScaling(
        factor=factor,
        original_max_positions=fields.whole("{arch}.rope.scaling.original_context_length"),
        beta_fast=fields.number("{arch}.rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("{arch}.rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=grown * fields.number("{arch}.rope.scaling.attn_factor", 1.0),
    )


def _llama3(divisors: GgufTensor) -> RopeScaling | None:
    factor = float(divisors.floats().max(initial=1.0))
    return None if factor == 1 else Llama3Scaling(factor=factor, **_LLAMA3)


def check_divisors(divisors: GgufTensor, shape: Backbone) -> None:
    """Raises :class:`ExportError` unless the table is the one of the scaling that was taken for
    it."""
    table = divisors.floats()
    plain = rotary_frequencies(shape.model_copy(update={"rope_scaling": None}))
    expected = plain / rotary_frequencies(shape)
    if table.shape != expected.shape or not np.allclose(table, expected, rtol=1e-4, atol=0):
        raise ExportError(
            f"its table {FREQUENCIES_NAME!r} of shape {table.shape} is not the one of Llama 3's "
            f"scaling with the usual {_LLAMA3}; give the Hugging Face folder of the model instead"
        )
