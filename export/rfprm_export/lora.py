"""Merges a PEFT LoRA adapter into base weights, with numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from rfprm_export import ExportError
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.weights_files import as_float32, open_safetensors
from rfprm_runtime.ground.names import file_in
from rfprm_runtime.ground.strict_json import read_json_object
from rfprm_runtime.ground.validated import Validated

Shape = tuple[int, ...]

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_NAME = "adapter_model.safetensors"


class AdapterConfig(Validated):
    """The fields of PEFT's ``adapter_config.json`` that change the merged weights."""

    model_config = ConfigDict(extra="ignore", strict=True)
    refusal = ExportError

    peft_type: str
    r: int = Field(gt=0, le=65_536)
    lora_alpha: float = Field(allow_inf_nan=False)
    use_rslora: bool | None = None
    use_dora: bool | None = None
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, Any] | None = None

    @property
    def scale(self) -> float:
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Raises :class:`ExportError` if it is missing, not valid, or of another kind than plain
    LoRA."""
    again = "save the adapter again"
    path = file_in(folder, ADAPTER_CONFIG_NAME, refusal=ExportError, way_out=again)
    content = read_json_object(path, refusal=ExportError, way_out=again)
    if content.get("peft_type") != "LORA" or content.get("use_dora"):
        raise ExportError(
            f"{path} describes a {str(content.get('peft_type'))[:80]} adapter"
            f"{' with DoRA' if content.get('use_dora') else ''}, expected plain LoRA; merge it "
            "with peft first and export the merged folder"
        )
    if content.get("rank_pattern") or content.get("alpha_pattern"):
        raise ExportError(
            "LoRA ranks or alphas that differ between layers are not supported; merge the adapter "
            "with peft first and export the merged folder"
        )
    try:
        return AdapterConfig.model_validate(content)
    except ExportError as error:
        raise ExportError(f"{path} is not a valid adapter: {error}; {again}") from None


def merge_lora(weights: StoredWeights, folder: Path) -> StoredWeights:
    """``weights`` with a PEFT LoRA adapter: W + scale · B @ A, computed when W is read.

    Raises :class:`ExportError` for another kind of adapter, or one that does not fit the weights.
    """
    config = read_adapter_config(folder)
    path = file_in(folder, ADAPTER_NAME, refusal=ExportError, way_out="save the adapter again")
    tensors, merged = open_safetensors(path).kept_if_small(), {}
    for name in sorted(tensors):
        module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
        if rest not in ("A.weight", "B.weight") or f"{module}.weight" not in weights:
            raise ExportError(f"adapter tensor {name!r} does not belong to the base model")
        if rest == "B.weight" and name.replace(".lora_B.", ".lora_A.") not in tensors:
            raise ExportError(f"adapter tensor {name!r} has no matching lora_A")
        if rest == "A.weight":
            other = name.replace(".lora_A.", ".lora_B.")
            if other not in tensors:
                raise ExportError(f"adapter tensor {name!r} has no matching lora_B")
            weight, high, low = (
                weights.stored[f"{module}.weight"],
                tensors.stored[other],
                tensors.stored[name],
            )
            _check_shapes(name, weight.shape, high.shape, low.shape, config.r)
            merged[f"{module}.weight"] = _merged(name, weight, low, high, config.scale)
    return weights.including(merged)


def _check_shapes(name: str, weight: Shape, high: Shape, low: Shape, rank: int) -> None:
    """Before they are multiplied: two small matrices of the wrong shapes make a huge one."""
    if len(weight) != 2 or (high, low) != ((weight[0], rank), (rank, weight[1])):
        raise ExportError(
            f"adapter tensor {name!r} has shape {low} and its lora_B {high}, but with rank {rank} "
            f"the weight of shape {weight} needs {(rank, *weight[1:])} and {(*weight[:1], rank)}"
        )


def _merged(name: str, weight: Stored, low: Stored, high: Stored, scale: float) -> Stored:
    return Stored(
        weight.shape, lambda: _add_low_rank(name, weight.read(), low.read(), high.read(), scale)
    )


def _add_low_rank(
    name: str,
    weight: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    scale: float,
) -> NDArray[np.float32]:
    """The merged weight, summed in float64 so that it is rounded once."""
    update = scale * (high.astype(np.float64) @ low.astype(np.float64))
    return as_float32(weight + update, name)
