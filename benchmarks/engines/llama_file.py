"""Writes a transformers checkpoint of a PRM as the GGUF files that llama.cpp reads.

llama.cpp knows no PRM. So the PRM's head takes the first rows of the language model's head: its
logits are then the logits of the first tokens. No row is computed but at the markers.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_LINEARS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NORMS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}


def write_gguf(checkpoint: Path, target: Path) -> None:
    """All matrices in fp16, as llama.cpp's own converter writes them."""
    from gguf import GGUFWriter
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text())
    kind, shape = config["model_type"], (config["vocab_size"], config["hidden_size"])
    partial = target.with_suffix(".partial")
    writer = GGUFWriter(partial, kind, use_temp_file=True)
    _add_fields(writer, config)
    with safe_open(checkpoint / "model.safetensors", "numpy") as tensors:
        for name, tensor in _tensors(tensors, config):
            is_matrix = tensor.ndim > 1
            writer.add_tensor(name, tensor.astype(np.float16 if is_matrix else np.float32))
        head = np.zeros(shape, np.float16)
        score = tensors.get_tensor("score.weight")
        head[: len(score)] = score
        writer.add_tensor("output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


def _add_fields(writer: Any, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")  # peers get token ids


def _tensors(tensors: Any, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    names, heads = set(tensors.keys()), config["num_attention_heads"]
    yield "token_embd.weight", tensors.get_tensor("model.embed_tokens.weight")
    yield "output_norm.weight", tensors.get_tensor("model.norm.weight")
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in (_LINEARS | _NORMS).items():
            for part in ("weight", "bias"):
                name = f"model.layers.{layer}.{ours}.{part}"
                if name not in names:
                    continue
                tensor = tensors.get_tensor(name)
                if config["model_type"] == "llama" and theirs in ("attn_q", "attn_k"):
                    count = heads if theirs == "attn_q" else config["num_key_value_heads"]
                    tensor = _interleaved(tensor, count)
                yield f"blk.{layer}.{theirs}.{part}", tensor


def _interleaved(tensor: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours in Llama's heads, transformers halves."""
    halves = tensor.reshape(num_heads, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape)


def quantize(source: Path, target: Path, kind: str) -> None:
    """``kind``: ``Q8_0`` or ``Q4_K_M``. The PRM's head stays in fp16."""
    import llama_cpp

    partial = target.with_suffix(".partial")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    options.output_tensor_type = llama_cpp.GGML_TYPE_F16
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(partial).encode(), ctypes.byref(options)
    )
    if status:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {kind}: {status}")
    partial.rename(target)
