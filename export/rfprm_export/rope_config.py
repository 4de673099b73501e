"""The rotary embedding in a Hugging Face ``config.json``, both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rfprm_export import ExportError
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.artifact.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
)
from rfprm_runtime.errors import ManifestError
from rfprm_runtime.ground.arguments import shown

_SUPPORTED = "linear, llama3 and yarn"


def read_rope(config: Mapping[str, Any], max_positions: int) -> tuple[float, RopeScaling | None]:
    """θ and the scaling. transformers 5 writes ``rope_parameters``, older ones ``rope_theta`` and
    ``rope_scaling``. ``max_positions``: those of the config, which scalings that do not name the
    original ones refer to.

    Raises :class:`ExportError`.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = _number(rope if "rope_theta" in rope else config, "rope_theta")
    if rope.get("partial_rotary_factor", 1) != 1 or config.get("partial_rotary_factor", 1) != 1:
        raise ExportError(
            "the model rotates only a part of each head (partial_rotary_factor), which the graph "
            "builder does not support"
        )
    try:
        return theta, _scaling(kind, rope, max_positions)
    except ManifestError as error:
        raise ExportError(f"config.json scales its rotary embedding wrongly: {error}") from None


def rope_fields(shape: Backbone) -> dict[str, Any]:
    """θ and the scaling of a shape, as :func:`read_rope` reads them."""
    fields: dict[str, Any] = {"rope_theta": shape.rope_theta}
    if shape.rope_scaling is not None:
        scaling = shape.rope_scaling.model_dump()
        positions = scaling.pop("original_max_positions", None)
        if positions is not None:
            scaling["original_max_position_embeddings"] = positions
        fields["rope_scaling"] = {"rope_type": scaling.pop("kind"), **scaling}
    return fields


def _scaling(kind: object, rope: Mapping[str, Any], max_positions: int) -> RopeScaling | None:
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise ExportError(
            f"the model scales its rotary embedding by {shown(kind)}, the graph builder supports "
            f"{_SUPPORTED}"
        )
    factor = _number(rope, "factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    original = rope.get("original_max_position_embeddings") or max_positions
    if kind == "llama3":
        return Llama3Scaling(
            factor=factor,
            low_freq_factor=_number(rope, "low_freq_factor"),
            high_freq_factor=_number(rope, "high_freq_factor"),
            original_max_positions=original,
        )
    return YarnScaling(
        factor=factor,
        original_max_positions=original,
        beta_fast=_number(rope, "beta_fast", 32.0),
        beta_slow=_number(rope, "beta_slow", 1.0),
        attention_factor=_attention_factor(rope, factor),
        truncate=rope.get("truncate", True),
    )


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """As given, or as the paper's Eq. 22 has it; DeepSeek's ``mscale`` weighs the logarithm."""
    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor")

    def weighed(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return weighed(_number(rope, "mscale")) / weighed(_number(rope, "mscale_all_dim"))
    return weighed(1)


def _number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        where = ", neither at the top nor in rope_parameters" if name == "rope_theta" else ""
        raise ExportError(f"config.json has no {name}{where}; download the model again")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExportError(f"config.json has the {name} {shown(value)}, expected a number")
    return float(value)
