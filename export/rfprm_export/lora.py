"""Merges a PEFT LoRA adapter into base weights, with numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.base_model import Weights, read_safetensors

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_NAME = "adapter_model.safetensors"


def merge_lora(weights: Weights, folder: Path) -> None:
    """Add a PEFT LoRA adapter to ``weights`` in place: W + scale · B @ A.

    Raises :class:`ExportError` for another kind of adapter, or one that does not fit the weights.
    """
    config = json.loads((folder / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise ExportError(
            f"{folder / ADAPTER_CONFIG_NAME} describes a {config.get('peft_type')} adapter"
            f"{' with DoRA' if config.get('use_dora') else ''}, expected plain LoRA; merge it "
            "with peft first and export the merged folder"
        )
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ExportError(
            "LoRA ranks or alphas that differ between layers are not supported; merge the adapter "
            "with peft first and export the merged folder"
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    tensors = dict(read_safetensors(folder / ADAPTER_NAME))
    for name in sorted(tensors):
        module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
        if rest not in ("A.weight", "B.weight") or f"{module}.weight" not in weights:
            raise ExportError(f"adapter tensor {name!r} does not belong to the base model")
        if rest == "B.weight" and name.replace(".lora_B.", ".lora_A.") not in tensors:
            raise ExportError(f"adapter tensor {name!r} has no matching lora_A")
        if rest == "A.weight":
            low, high = tensors[name], tensors.get(name.replace(".lora_A.", ".lora_B."))
            if high is None:
                raise ExportError(f"adapter tensor {name!r} has no matching lora_B")
            weights[f"{module}.weight"] = _add_low_rank(
                weights[f"{module}.weight"], low, high, scale
            )


def _add_low_rank(
    weight: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    scale: float,
) -> NDArray[np.float32]:
    """The merged weight, summed in float64 so that it is rounded once."""
    update = scale * (high.astype(np.float64) @ low.astype(np.float64))
    if update.shape != weight.shape:
        raise ExportError(
            f"an adapter update has shape {update.shape}, but its weight has {weight.shape}"
        )
    return (weight + update).astype(np.float32)
