"""Reads weights, shape and tokenizer of a base model with numpy, from GGUF or Hugging Face files.

Tensors keep Hugging Face's names and [out, in] layout, in float32. Knows no PRMs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.gguf_reader import read_gguf
from rfprm_runtime.artifact.manifest import Backbone

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class BaseModel:
    """A decoder with its tokenizer, before it becomes a PRM."""

    backbone: Backbone
    weights: Weights
    tokenizer: Tokenizer
    max_positions: int
    architectures: tuple[str, ...] = ()


def read_base_model(path: Path) -> BaseModel:
    """Read a ``.gguf`` file or a Hugging Face folder (``config.json``, ``*.safetensors``,
    ``tokenizer.json``).

    Raises :class:`ExportError` if a file is missing, unreadable or of an unsupported architecture.
    """
    if path.is_file() and path.suffix == ".gguf":
        backbone, weights, tokenizer, max_positions = read_gguf(path)
        return BaseModel(backbone, weights, tokenizer, max_positions)
    if not (path / "config.json").is_file():
        raise ExportError(
            f"{path} is neither a .gguf file nor a folder with a config.json; give a training "
            "checkpoint, a Hugging Face model folder or a GGUF file"
        )
    return _read_folder(path)


def _read_folder(folder: Path) -> BaseModel:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path} is not JSON ({error}); download the model again") from None
    if not isinstance(config, dict):
        raise ExportError(f"{path} is not a JSON object; download the model again")
    if not (folder / "tokenizer.json").is_file():
        raise ExportError(
            f"{folder} has no tokenizer.json; save it with a fast tokenizer "
            "(AutoTokenizer.from_pretrained(…).save_pretrained(…))"
        )
    try:
        backbone, max_positions = backbone_from_config(config), config["max_position_embeddings"]
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except KeyError as error:
        raise ExportError(f"{path} has no field {error}; download the model again") from None
    except ExportError:
        raise
    except Exception as error:  # tokenizers raises a bare Exception, pydantic a ValueError
        raise ExportError(f"{folder} cannot be read as a model: {error}") from error
    return BaseModel(
        backbone=backbone,
        weights=dict(read_safetensors_folder(folder)),
        tokenizer=tokenizer,
        max_positions=int(max_positions),
        architectures=tuple(config.get("architectures") or ()),
    )


def backbone_from_config(config: Mapping[str, Any]) -> Backbone:
    """The shape that a Hugging Face ``config.json`` describes. Raises :class:`ExportError`."""
    kind = config.get("model_type")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise ExportError(
            f"model_type is {kind!r}, the graph builder supports llama, qwen2 and qwen3"
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ExportError(f"hidden_act is {activation!r}, the graph builder supports silu")
    if config.get("use_sliding_window"):
        raise ExportError(
            "the model uses a sliding attention window, which the graph builder does not support"
        )
    heads = config["num_attention_heads"]
    bias = bool(config.get("attention_bias", False))
    return Backbone(
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_theta=_rope_theta(config),
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
    )


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
        "rope_theta": shape.rope_theta,
        "hidden_act": "silu",
    }


def _rope_theta(config: Mapping[str, Any]) -> float:
    """transformers 5 writes ``rope_parameters``, older ones ``rope_theta`` and ``rope_scaling``."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise ExportError(
            f"the model scales its rotary embedding by {kind!r}, the graph builder supports only "
            "the default"
        )
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise ExportError(
            "config.json has no rope_theta, neither at the top nor in rope_parameters"
        )
    return float(theta)


def read_safetensors_folder(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor of the folder's ``*.safetensors``, in float32."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({folder / name for name in weight_map.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ExportError(
            f"{folder} holds no .safetensors file; convert older .bin weights with "
            "model.save_pretrained(…)"
        )
    for file in files:
        yield from read_safetensors(file)


def read_safetensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor of one file, in float32. Raises :class:`ExportError` if it is damaged."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (a safe_open is not a mapping)
                yield name, np.asarray(file.get_tensor(name)).astype(np.float32)
    except Exception as error:  # safetensors raises its own error, OSError or a bare Exception
        raise ExportError(f"{path} cannot be read as safetensors: {error}") from error
