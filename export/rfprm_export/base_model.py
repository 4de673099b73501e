"""Opens a base model with numpy: shape, tokenizer and weights, from GGUF or Hugging Face files.

Tensors keep Hugging Face's names and [out, in] layout, in float32. Knows no PRMs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.gguf_reader import read_gguf
from rfprm_export.rope_config import read_rope, rope_fields
from rfprm_export.stored_weights import StoredWeights
from rfprm_export.vocabulary.folder import open_tokenizer
from rfprm_export.weights_folder import open_weights
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.errors import ManifestError
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.strict_json import read_json_object
from rfprm_runtime.ground.validated import Validated

DType = Literal["float32", "float16", "bfloat16"]
CONFIG_NAME = "config.json"
_AGAIN = "download the model again"


@dataclass(frozen=True)
class BaseModel:
    """A decoder with its tokenizer, before it becomes a PRM."""

    backbone: Backbone
    weights: StoredWeights
    """Read when they are asked for, as float32."""
    tokenizer: Tokenizer
    max_positions: int
    dtype: DType = "float32"
    """What its config says that the weights are stored in; here they are float32."""
    tokenizer_origin: str | None = None
    """What the tokenizer was converted from, and what was guessed; None if it came whole."""

    @property
    def said_of_tokenizer(self) -> dict[str, str]:
        """For the manifest's ``source``, which ``rfprm info`` prints: part of it may be guessed."""
        return {} if self.tokenizer_origin is None else {"tokenizer": self.tokenizer_origin}


def read_base_model(path: Path) -> BaseModel:
    """Read a ``.gguf`` file or a Hugging Face folder (``config.json``, ``*.safetensors`` or
    ``pytorch_model*.bin``, and a tokenizer in one of the forms of :mod:`.vocabulary.folder`).

    Raises :class:`ExportError` if a file is missing, unreadable or of an unsupported architecture.
    """
    if os.path.isfile(path) and path.suffix == ".gguf":  # Path.is_file raises for some names
        return BaseModel(*read_gguf(path))
    if not (os.path.isdir(path) and holds_file(path, CONFIG_NAME)):
        raise ExportError(
            f"{path} is neither a .gguf file nor a folder with a config.json; give a training "
            "checkpoint, a Hugging Face model folder or a GGUF file"
        )
    return _read_folder(path)


def architectures_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a ``config.json`` says that the model is, by the names of transformers' classes; nothing
    if it does not tell."""
    found = config.get("architectures")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        return ()
    return tuple(found)


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder as it is; empty if there is none. Raises
    :class:`ExportError`."""
    if not (os.path.isdir(path) and holds_file(path, CONFIG_NAME)):
        return {}
    place = file_in(path, CONFIG_NAME, refusal=ExportError, way_out=_AGAIN)
    return read_json_object(place, refusal=ExportError, way_out=_AGAIN)


def check_base_model(folder: Path) -> None:
    """Raises :class:`ExportError` if the ``config.json`` of a folder is not that of a network that
    can be built. Needs no other file."""
    _backbone(_read_config(file_in(folder, CONFIG_NAME, refusal=ExportError, way_out=_AGAIN)))


def _read_folder(folder: Path) -> BaseModel:
    config = _read_config(file_in(folder, CONFIG_NAME, refusal=ExportError, way_out=_AGAIN))
    found = open_tokenizer(folder, config.model_dump())
    return BaseModel(
        backbone=_backbone(config),
        weights=open_weights(folder),
        tokenizer=found.tokenizer,
        tokenizer_origin=found.origin,
        max_positions=_positions(config),
        dtype=config.dtype or config.torch_dtype or "float32",
    )


class _ModelConfig(Validated):
    """The fields of a ``config.json`` that matter here."""

    model_config = ConfigDict(extra="ignore", strict=True)
    refusal = ExportError

    model_type: str = ""
    tokenizer_class: str | None = None
    architectures: tuple[str, ...] | None = Field(default=None, strict=False)
    hidden_act: str = "silu"
    use_sliding_window: bool | None = None
    sliding_window: int | None = Field(default=None, gt=0)
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int = Field(gt=0)
    rms_norm_eps: float
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    dtype: DType | None = None
    torch_dtype: DType | None = None


def _read_config(path: Path) -> _ModelConfig:
    content = read_json_object(path, refusal=ExportError, way_out=_AGAIN)
    _check_kind(content)  # first: a model of another kind has other fields
    try:
        return _ModelConfig.model_validate(content)
    except ExportError as error:
        raise ExportError(f"{path} does not describe a model: {error}; {_AGAIN}") from None


def backbone_from_config(config: Mapping[str, Any]) -> Backbone:
    """The shape that a Hugging Face ``config.json`` describes. Raises :class:`ExportError`."""
    _check_kind(config)
    return _backbone(_ModelConfig.model_validate({"max_position_embeddings": 1, **config}))


def _check_kind(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind not in ("llama", "mistral", "qwen2", "qwen3"):
        raise ExportError(
            f"model_type is {kind!r}, the graph builder supports llama, mistral, qwen2 and qwen3"
        )
    stored = config.get("quantization_config")
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, dict) else stored
        raise ExportError(
            f"the model's weights are stored quantised ({str(method)[:80]}), and only plain floats "
            "are read; give the model that it was made from"
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ExportError(f"hidden_act is {activation!r}, the graph builder supports silu")


def _positions(config: _ModelConfig) -> int:
    """As many as every token sees all tokens before it: within a sliding window attention is the
    ordinary one. Mistral has a window unless it is null, Qwen if it says that it uses it."""
    uses = config.use_sliding_window
    has_window = config.model_type == "mistral" if uses is None else uses
    if not has_window or config.sliding_window is None:
        return config.max_position_embeddings
    return min(config.max_position_embeddings, config.sliding_window)


def _backbone(config: _ModelConfig) -> Backbone:
    heads, bias = config.num_attention_heads, bool(config.attention_bias)
    theta, scaling = read_rope(config.model_dump(), config.max_position_embeddings)
    try:
        return Backbone(
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=heads,
            num_kv_heads=config.num_key_value_heads or heads,
            head_dim=config.head_dim or config.hidden_size // heads,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=bias or config.model_type == "qwen2",
            output_bias=bias,
            mlp_bias=bool(config.mlp_bias),
            qk_norm=config.model_type == "qwen3",
        )
    except ManifestError as error:
        raise ExportError(f"config.json describes no network: {error}; {_AGAIN}") from None


def config_fields(shape: Backbone) -> dict[str, Any]:
    """The shape as fields of a ``config.json``, under the names that :func:`backbone_from_config`
    reads. ``head_dim`` and the biases differ by architecture, so callers add them."""
    return {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
        "rms_norm_eps": shape.rms_norm_eps,
        **rope_fields(shape),
        "hidden_act": "silu",
    }
