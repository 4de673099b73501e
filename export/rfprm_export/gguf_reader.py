"""Reads GGUF files of Llama, Qwen2 and Qwen3: shape, tokenizer, and weights that stay in the file.

Sources: the GGUF specification, and llama.cpp's converter and loader.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.gguf_fields import GgufFields
from rfprm_export.gguf_file import GgufTensor, open_gguf
from rfprm_export.gguf_rope import FREQUENCIES_NAME, check_divisors, read_gguf_rope
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.vocabulary.gguf_tokenizer import gguf_tokenizer
from rfprm_export.weights_files import as_float32
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.errors import RfprmError

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""transformers' names: what is read of a GGUF file is a language model, without other heads."""
_INTERLEAVED = ("llama",)
"""Where llama.cpp's converter interleaves the two rotary halves of each query and key head."""
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k": "self_attn.k_proj",
    "attn_k_norm": "self_attn.k_norm",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_EMBEDDING = "token_embd.weight"
_OTHER_NAMES = {
    _EMBEDDING: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_WAY_OUT = "give the Hugging Face folder of the model instead"
_Tensors = dict[str, GgufTensor]


def read_gguf(path: Path) -> tuple[Backbone, StoredWeights, Tokenizer, int]:
    """Shape, weights, tokenizer and number of positions. Raises :class:`ExportError`."""
    file = open_gguf(path)
    fields = GgufFields(path, file)
    _check_kind(fields)
    tensors = {tensor.name: tensor for tensor in file.tensors}
    try:
        backbone = _backbone(fields, tensors)
        weights = StoredWeights(
            {
                _hugging_face_name(name): _stored(tensor, backbone, fields)
                for name, tensor in tensors.items()
                if name != FREQUENCIES_NAME
            }
        )
    except RfprmError as error:
        raise ExportError(f"{path} cannot be read as a model: {error}") from None
    return backbone, weights, gguf_tokenizer(fields), fields.whole("{arch}.context_length")


def gguf_architecture(path: Path) -> str:
    """What the model in the file is, by the name of transformers' class. Reads no weights. Raises
    :class:`ExportError`."""
    fields = GgufFields(path, open_gguf(path))
    _check_kind(fields)
    return _ARCHITECTURES[fields.architecture]


def _check_kind(fields: GgufFields) -> None:
    """Refuse what would be computed as another network."""
    name, path = fields.architecture, fields.path
    kind = fields.text("general.type", "model")
    if kind != "model":
        raise ExportError(f"{path} is of the type {kind!r}, expected 'model'; give its base model")
    num_files = fields.whole("split.count", 1)
    if num_files > 1:
        raise ExportError(
            f"{path} is one of {num_files} files of a model; join them with llama-gguf-split "
            "--merge"
        )
    if name not in _ARCHITECTURES:
        raise ExportError(
            f"{path} holds the architecture {name!r}, expected one of {list(_ARCHITECTURES)}; "
            f"{_WAY_OUT}, if it is one of those"
        )
    if fields.whole("{arch}.expert_count", 0):
        raise ExportError(f"{path} holds a mixture of experts, which the graph builder cannot run")
    window, positions = "{arch}.attention.sliding_window", fields.whole("{arch}.context_length")
    if 0 < fields.whole(window, 0) < positions:
        raise ExportError(
            f"{path} uses a sliding attention window, which the graph builder does not support"
        )


def _backbone(fields: GgufFields, tensors: _Tensors) -> Backbone:
    hidden = fields.whole("{arch}.embedding_length")
    heads = fields.whole("{arch}.attention.head_count")
    head_dim = fields.whole("{arch}.attention.key_length", hidden // max(heads, 1))
    for name in ("{arch}.attention.value_length", "{arch}.rope.dimension_count"):
        if fields.whole(name, head_dim) != head_dim:
            raise ExportError(
                f"{name.format(arch=fields.architecture)} is {fields.whole(name)}, but a head has "
                f"{head_dim} dimensions; the graph builder rotates whole heads of one size"
            )
    divisors = tensors.get(FREQUENCIES_NAME)
    theta, scaling = read_gguf_rope(fields, divisors)
    shape = Backbone(
        hidden_size=hidden,
        num_layers=fields.whole("{arch}.block_count"),
        num_heads=heads,
        num_kv_heads=fields.whole("{arch}.attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate_size=fields.whole("{arch}.feed_forward_length"),
        vocab_size=_num_rows(tensors),
        rms_norm_eps=_shortest(fields.number("{arch}.attention.layer_norm_rms_epsilon")),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
    )
    if divisors is not None:
        check_divisors(divisors, shape)
    return shape


def _num_rows(tensors: _Tensors) -> int:
    """Of the table of tokens; not every file has a field for it."""
    if _EMBEDDING not in tensors:
        raise ExportError(f"it has no tensor {_EMBEDDING!r}; download the file again")
    return tensors[_EMBEDDING].shape[0]


def _shortest(number: float) -> float:
    """Stored as float32; its shortest decimal is the original value."""
    return float(str(np.float32(number)))


def _hugging_face_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise ExportError(f"the graph builder knows no tensor {name!r}; {_WAY_OUT}")


def _stored(tensor: GgufTensor, backbone: Backbone, fields: GgufFields) -> Stored:
    heads = {"attn_q": backbone.num_heads, "attn_k": backbone.num_kv_heads}
    part = (tensor.name.split(".")[2:3] or [""])[0]
    is_interleaved = fields.architecture in _INTERLEAVED and part in heads

    def read() -> NDArray[np.float32]:
        try:
            array = as_float32(tensor.floats(), tensor.name)
            if is_interleaved:
                return _halves_not_interleaved(array, heads[part], tensor.name)
            return array
        except RfprmError as error:
            raise ExportError(f"{fields.path} cannot be read as a model: {error}") from None

    return Stored(tensor.shape, read)


def _halves_not_interleaved(
    array: NDArray[np.float32], num_heads: int, name: str
) -> NDArray[np.float32]:
    """Undo llama.cpp's interleaving, of a weight or of a bias."""
    if len(array) % (2 * num_heads):
        raise ExportError(f"tensor {name!r} has shape {array.shape}, for {num_heads} heads")
    pairs = array.reshape(num_heads, len(array) // num_heads // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(array.shape))
