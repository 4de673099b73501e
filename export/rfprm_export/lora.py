"""Merges a PEFT LoRA adapter into base weights, with numpy.

Beside the low-rank updates an adapter may hold whole tensors: a head that was trained with it
(``modules_to_save``), biases, embeddings that were resized. They replace the base's. Sources:
``get_peft_model_state_dict`` and ``LoraConfig`` of PEFT.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from rfprm_export import ExportError
from rfprm_export.pickled_weights import open_pickled
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.weights_files import as_float32, open_safetensors
from rfprm_export.wrapped_names import without_outer_wrappers
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.strict_json import read_json_object
from rfprm_runtime.ground.validated import Validated

Shape = tuple[int, ...]

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_NAME = "adapter_model.safetensors"
ADAPTER_NAMES = (ADAPTER_NAME, "adapter_model.bin")
_AGAIN = "save the adapter again"
_MERGE_FIRST = "merge it with peft first and export the merged folder"
# Settings with which the merged weights are not W + scale · B @ A.
_NOT_PLAIN = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "rank_pattern": "ranks that differ between layers",
    "alpha_pattern": "alphas that differ between layers",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "arrow_config": "routing (Arrow)",
    "target_parameters": "updates of bare parameters",
    "trainable_token_indices": "updates of single tokens",
    "lora_bias": "biases of the updates (lora_bias)",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
# Those that leave the base's weights as they are; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change
# them when an adapter is loaded.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
_HEAD_TENSORS = re.compile(r"(?:score|classifier|lm_head|v_head|[a-z_]*head)\b.*")
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


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
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    """Of the base model."""
    auto_mapping: dict[str, Any] | None = None
    """Without a task type: which class the adapted model was of."""
    target_modules: Any = None
    exclude_modules: Any = None
    layers_to_transform: Any = None
    layers_pattern: Any = None

    @property
    def scale(self) -> float:
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)

    @property
    def is_in_every_layer(self) -> bool:
        """Whether the modules that were adapted are named by what every layer calls them."""
        if self.exclude_modules or self.layers_to_transform is not None or self.layers_pattern:
            return False
        named = self.target_modules
        if not isinstance(named, list):  # a text is a pattern, but for this one
            return isinstance(named, str) and named == "all-linear"
        parts = [part for name in named for part in str(name).split(".")]
        return bool(parts) and not any(part.isdigit() for part in parts)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Raises :class:`ExportError` if it is missing, not valid, or of another kind than plain
    LoRA."""
    path = file_in(folder, ADAPTER_CONFIG_NAME, refusal=ExportError, way_out=_AGAIN)
    content = read_json_object(path, refusal=ExportError, way_out=_AGAIN)
    if content.get("peft_type") != "LORA":
        raise ExportError(
            f"{path} describes a {str(content.get('peft_type'))[:80]} adapter, expected plain "
            f"LoRA; {_MERGE_FIRST}"
        )
    extras = [what for name, what in _NOT_PLAIN.items() if content.get(name)]
    beginning = content.get("init_lora_weights")
    if not any(beginning is plain or beginning == plain for plain in _PLAIN_BEGINNINGS):
        extras.append(f"the initialisation {shown(beginning)}, which changes the base's weights")
    if extras:
        raise ExportError(
            f"{path} describes a LoRA adapter with {extras[0]}, expected plain LoRA; {_MERGE_FIRST}"
        )
    try:
        return AdapterConfig.model_validate(content)
    except ExportError as error:
        raise ExportError(f"{path} is not a valid adapter: {error}; {_AGAIN}") from None


def merge_lora(weights: StoredWeights, folder: Path) -> StoredWeights:
    """``weights`` with a PEFT LoRA adapter: W + scale · B @ A, computed when W is read, and with
    the whole tensors that the adapter holds.

    Raises :class:`ExportError` for another kind of adapter, or one that does not fit the weights.
    """
    config = read_adapter_config(folder)
    tensors, path = _read_tensors(folder)
    weights = weights.including(_whole_tensors(tensors, weights))
    if config.is_in_every_layer:
        _check_layers(tensors, weights, path)
    merged = {}
    for name in sorted(tensors):
        module, lora, rest = _inner(name).partition(".lora_")
        if not lora:
            continue  # a whole tensor
        if rest not in ("A.weight", "B.weight"):
            raise ExportError(
                f"adapter tensor {name!r} is not the update of a linear layer; {_MERGE_FIRST}"
            )
        if f"{module}.weight" not in weights:
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
    if not len(tensors):
        raise ExportError(f"{path} holds no tensors; {_AGAIN}")
    return weights.including(merged)


def _read_tensors(folder: Path) -> tuple[StoredWeights, Path]:
    name = next((name for name in ADAPTER_NAMES if holds_file(folder, name)), ADAPTER_NAME)
    path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
    opened = open_safetensors(path) if name == ADAPTER_NAME else open_pickled(path)
    return without_outer_wrappers(opened, str(path)).kept_if_small(), path


def _inner(name: str) -> str:
    """A tensor's name in the base model."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _whole_tensors(tensors: StoredWeights, weights: StoredWeights) -> dict[str, Stored]:
    """The tensors that replace the base's, or are a head that it does not have."""
    found: dict[str, Stored] = {}
    for name, stored in tensors.stored.items():
        inner = _inner(name)
        if ".lora_" in inner or ".original_module." in inner:  # the latter is the base's own
            continue
        inner = re.sub(r"\.modules_to_save(?:\.default)?\.", ".", inner)
        expected = weights.stored[inner].shape if inner in weights else None
        if expected is None and not _HEAD_TENSORS.fullmatch(inner):
            raise ExportError(f"adapter tensor {name!r} does not belong to the base model")
        resized = inner in _VOCABULARY and expected is not None and len(stored.shape) == 2
        if expected is not None and stored.shape[resized:] != expected[resized:]:
            raise ExportError(
                f"adapter tensor {name!r} has shape {stored.shape}, but the base model's is "
                f"{expected}; give the right base with --base"
            )
        if inner in found:
            raise ExportError(f"the adapter holds {inner!r} twice, by two names; {_AGAIN}")
        found[inner] = stored
    return found


def _check_layers(tensors: StoredWeights, weights: StoredWeights, path: Path) -> None:
    """Raises :class:`ExportError` if only the base's lower layers have an update, as a smaller
    model's would. Upper layers alone were chosen, whatever the adapter's config says of it."""
    updated = {int(match[1]) for match in map(_LAYER.search, tensors) if match}
    present = {int(match[1]) for match in map(_LAYER.search, weights) if match}
    if updated and updated < present and updated == set(range(len(updated))):
        raise ExportError(
            f"{path} was trained on a model of {max(updated) + 1} layers, and the base model has "
            f"{max(present) + 1}; give the right base with --base"
        )


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
