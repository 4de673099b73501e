"""Reads GGUF files of the Llama architecture: shape, dequantised weights and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rfprm_export import ExportError
from rfprm_runtime.artifact.manifest import Backbone

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN = 3  # GGUF's token type of special tokens


def read_gguf(
    path: Path,
) -> tuple[Backbone, dict[str, NDArray[np.float32]], Tokenizer, int]:
    """Shape, weights, tokenizer and number of positions. Raises :class:`ExportError`."""
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # a truncated file surfaces as ValueError, IndexError or others
        raise ExportError(f"{path} cannot be read as GGUF: {error}") from error

    def value(name: str) -> Any:
        if name not in reader.fields:
            raise ExportError(f"{path} has no metadata field {name!r}")
        return reader.fields[name].contents()

    def optional(name: str, default: Any) -> Any:
        return reader.fields[name].contents() if name in reader.fields else default

    architecture = value("general.architecture")
    if architecture != "llama":
        raise ExportError(
            f"{path} holds architecture {architecture!r}, expected 'llama'; give the Hugging Face "
            "folder of the model instead"
        )
    scaling = optional("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ExportError(
            f"{path} scales its rotary embedding by {scaling!r}, the graph builder supports only "
            "the default"
        )
    heads = value("llama.attention.head_count")
    backbone = Backbone(
        hidden_size=value("llama.embedding_length"),
        num_layers=value("llama.block_count"),
        num_heads=heads,
        num_kv_heads=value("llama.attention.head_count_kv"),
        head_dim=optional("llama.attention.key_length", value("llama.embedding_length") // heads),
        intermediate_size=value("llama.feed_forward_length"),
        vocab_size=value("llama.vocab_size"),
        # Stored as float32; its shortest decimal is the original value.
        rms_norm_eps=float(str(np.float32(value("llama.attention.layer_norm_rms_epsilon")))),
        rope_theta=value("llama.rope.freq_base"),
    )
    weights = {
        _hugging_face_name(tensor.name): _dequantise(tensor, backbone) for tensor in reader.tensors
    }
    return backbone, weights, _tokenizer(value, path), value("llama.context_length")


def _hugging_face_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise ExportError(
        f"a Llama model has no tensor {name!r}; give the Hugging Face folder of the model instead"
    )


def _dequantise(tensor: Any, backbone: Backbone) -> NDArray[np.float32]:
    array = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    if ".attn_q." in tensor.name:
        return _halves_not_interleaved(array, backbone.num_heads)
    if ".attn_k." in tensor.name:
        return _halves_not_interleaved(array, backbone.num_kv_heads)
    return array


def _halves_not_interleaved(array: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Undo llama.cpp's interleaving of the two rotary halves of each query and key head."""
    out_size, in_size = array.shape
    pairs = array.reshape(num_heads, out_size // num_heads // 2, 2, in_size)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(out_size, in_size))


def _tokenizer(value: Any, path: Path) -> Tokenizer:
    """SmolLM2's byte-level BPE: single digits, and special tokens by their token type."""
    model, rules = value("tokenizer.ggml.model"), value("tokenizer.ggml.pre")
    if (model, rules) != ("gpt2", "smollm"):
        raise ExportError(
            f"{path} has a {model!r} tokenizer with {rules!r} rules, expected 'gpt2' with "
            "'smollm'; give the Hugging Face folder of the model instead"
        )
    tokens = value("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, value("tokenizer.ggml.token_type"), strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer
