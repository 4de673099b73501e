"""Reads GGUF files of the Llama architecture: shape, dequantised weights and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rfprm_export import ExportError
from rfprm_export.gguf_file import GgufTensor, open_gguf
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.weights_files import as_float32
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.prompt.tokenizer_file import tokenizer_errors

Item = TypeVar("Item")
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


class _Fields:
    """The metadata of a file, each field of the type that it must have."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path, self._content = path, content

    def whole(self, name: str, default: int | None = None) -> int:
        return int(self._get(name, (int,), "a whole number", default))

    def number(self, name: str) -> float:
        return float(self._get(name, (int, float), "a number"))

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._get(name, (str,), "a text", default))

    def list_of(self, name: str, kind: type[Item]) -> list[Item]:
        found: list[Item] = self._get(name, (list,), "a list")
        if not all(isinstance(item, kind) for item in found):
            raise ExportError(f"{self._path} has {name!r} with other items than {kind.__name__}")
        return found

    def _get(self, name: str, kinds: tuple[type, ...], expected: str, default: Any = None) -> Any:
        value = self._content.get(name, default)
        if value is None:
            raise ExportError(f"{self._path} has no metadata field {name!r}")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ExportError(f"{self._path} has {name!r} {shown(value)}, expected {expected}")
        return value


def read_gguf(path: Path) -> tuple[Backbone, StoredWeights, Tokenizer, int]:
    """Shape, weights, tokenizer and number of positions. Raises :class:`ExportError`."""
    file = open_gguf(path)
    fields = _Fields(path, file.fields)
    architecture = fields.text("general.architecture")
    if architecture != "llama":
        raise ExportError(
            f"{path} holds architecture {architecture!r}, expected 'llama'; give the Hugging Face "
            "folder of the model instead"
        )
    scaling = fields.text("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise ExportError(
            f"{path} scales its rotary embedding by {scaling!r}, the graph builder supports only "
            "the default"
        )
    try:
        backbone = _backbone(fields)
        weights = StoredWeights(
            {_hugging_face_name(t.name): _stored(t, backbone, path) for t in file.tensors}
        )
    except RfprmError as error:
        raise ExportError(f"{path} cannot be read as a model: {error}") from None
    return backbone, weights, _tokenizer(fields, path), fields.whole("llama.context_length")


def _backbone(fields: _Fields) -> Backbone:
    hidden, heads = (
        fields.whole("llama.embedding_length"),
        fields.whole("llama.attention.head_count"),
    )
    epsilon = np.float32(fields.number("llama.attention.layer_norm_rms_epsilon"))
    return Backbone(
        hidden_size=hidden,
        num_layers=fields.whole("llama.block_count"),
        num_heads=heads,
        num_kv_heads=fields.whole("llama.attention.head_count_kv"),
        head_dim=fields.whole("llama.attention.key_length", hidden // max(heads, 1)),
        intermediate_size=fields.whole("llama.feed_forward_length"),
        vocab_size=fields.whole("llama.vocab_size"),
        # Stored as float32; its shortest decimal is the original value.
        rms_norm_eps=float(str(epsilon)),
        rope_theta=fields.number("llama.rope.freq_base"),
    )


def _hugging_face_name(name: str) -> str:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise ExportError(
        f"a Llama model has no tensor {name!r}; give the Hugging Face folder of the model instead"
    )


def _stored(tensor: GgufTensor, backbone: Backbone, path: Path) -> Stored:
    def read() -> NDArray[np.float32]:
        try:
            return _dequantise(tensor, backbone)
        except RfprmError as error:
            raise ExportError(f"{path} cannot be read as a model: {error}") from None

    return Stored(tensor.shape, read)


def _dequantise(tensor: GgufTensor, backbone: Backbone) -> NDArray[np.float32]:
    array = as_float32(tensor.floats(), tensor.name)
    if ".attn_q.weight" in tensor.name:
        return _halves_not_interleaved(array, backbone.num_heads, tensor.name)
    if ".attn_k.weight" in tensor.name:
        return _halves_not_interleaved(array, backbone.num_kv_heads, tensor.name)
    return array


def _halves_not_interleaved(
    array: NDArray[np.float32], num_heads: int, name: str
) -> NDArray[np.float32]:
    """Undo llama.cpp's interleaving of the two rotary halves of each query and key head."""
    if array.ndim != 2 or len(array) % (2 * num_heads):
        raise ExportError(f"tensor {name!r} has shape {array.shape}, for {num_heads} heads")
    out_size, in_size = array.shape
    pairs = array.reshape(num_heads, out_size // num_heads // 2, 2, in_size)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(out_size, in_size))


def _tokenizer(fields: _Fields, path: Path) -> Tokenizer:
    """SmolLM2's byte-level BPE: single digits, and special tokens by their token type."""
    model, rules = fields.text("tokenizer.ggml.model"), fields.text("tokenizer.ggml.pre")
    if (model, rules) != ("gpt2", "smollm"):
        raise ExportError(
            f"{path} has a {model!r} tokenizer with {rules!r} rules, expected 'gpt2' with "
            "'smollm'; give the Hugging Face folder of the model instead"
        )
    tokens = fields.list_of("tokenizer.ggml.tokens", str)
    kinds = fields.list_of("tokenizer.ggml.token_type", int)
    merges = [_pair(merge, path) for merge in fields.list_of("tokenizer.ggml.merges", str)]
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ExportError(f"{path} has {len(tokens)} tokens, but some twice or without a type")
    with tokenizer_errors(
        f"{path} has no usable tokenizer", refusal=ExportError, way_out="download the file again"
    ):
        tokenizer = _byte_level_bpe(tokens, merges)
        special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in special]
        )
    return tokenizer


def _pair(merge: str, path: Path) -> tuple[str, str]:
    first, _, second = merge.partition(" ")
    if not first or not second or " " in second:
        raise ExportError(f"{path} has the merge {shown(merge)}, expected two tokens")
    return first, second


def _byte_level_bpe(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
