"""Small GGUF files of every architecture that is read, as llama.cpp's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.artifact.network_tensors import network_tensors

Floats = NDArray[np.float32]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def random_base(shape: Backbone) -> dict[str, Floats]:
    """A base model's tensors under Hugging Face's names."""
    chance = np.random.default_rng(0)
    tensors = network_tensors(shape, Head(kind="linear", num_labels=2))
    return {
        name: chance.normal(size=size).astype(np.float32) * 0.1
        for name, size in tensors
        if name.startswith("model.")
    }


def write_gguf(
    path: Path,
    shape: Backbone,
    weights: dict[str, Floats],
    vocabulary: dict[str, Any],
    *,
    architecture: str = "llama",
    fields: dict[str, Any] | None = None,
    more: dict[str, Floats] | None = None,
) -> Path:
    """``vocabulary`` are the fields below ``tokenizer.ggml``; ``fields`` replace others, or remove
    them where they are None; ``more`` are further tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in {**_fields(shape, architecture), **(fields or {})}.items():
        if value is not None:
            _add(writer, name.replace("ARCH", architecture), value)
    for name, value in vocabulary.items():
        _add(writer, f"tokenizer.ggml.{name}", value)
    for name, array in weights.items():
        is_turned = architecture == "llama" and ("q_proj" in name or "k_proj" in name)
        heads = shape.num_heads if "q_proj" in name else shape.num_kv_heads
        writer.add_tensor(_gguf_name(name), _interleaved(array, heads) if is_turned else array)
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _fields(shape: Backbone, architecture: str) -> dict[str, Any]:
    return {
        "ARCH.embedding_length": shape.hidden_size,
        "ARCH.block_count": shape.num_layers,
        "ARCH.attention.head_count": shape.num_heads,
        "ARCH.attention.head_count_kv": shape.num_kv_heads,
        "ARCH.attention.key_length": shape.head_dim,
        "ARCH.feed_forward_length": shape.intermediate_size,
        "ARCH.attention.layer_norm_rms_epsilon": shape.rms_norm_eps,
        "ARCH.rope.freq_base": shape.rope_theta,
        "ARCH.context_length": 64,
    }


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _gguf_name(name: str) -> str:
    module, _, end = name.removeprefix("model.layers.").rpartition(".")
    layer, _, part = module.partition(".")
    return f"blk.{layer}.{NAMES[part]}.{end}" if layer.isdigit() else f"{NAMES[module]}.{end}"


def _interleaved(array: Floats, num_heads: int) -> Floats:
    """What llama.cpp's converter calls ``permute``."""
    halves = array.reshape(num_heads, 2, len(array) // num_heads // 2, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def byte_level_fields(tokenizer: Tokenizer, rules: str = "smollm") -> dict[str, Any]:
    """Of a byte-level tokenizer: what begins with ``<`` and is longer is a control token."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    return {
        "model": "gpt2",
        "pre": rules,
        "tokens": tokens,
        "token_type": [3 if token[0] == "<" and len(token) > 1 else 1 for token in tokens],
        "merges": ["t h", "th e"],
    }
