"""A decoder in torch that many rows run through together, with what they share computed once.

Knows token ids, keys and values; draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rfprm_export.base_model import BaseModel
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.backends.torch import RMSNorm, rotate
from rfprm_training.learning.precision import is_fast_in_bfloat16

_PACKED_FOR = 128
"""Rows that the layout of packed weights is best for."""

Cache = list[Tensor]
"""Keys and values of each layer, [2, rows, KV heads, length, head_dim]; a prefix has no rows."""


class _Linear:
    """A linear map. On a CPU, oneDNN would bring the weights into its own layout at every call,
    which takes up to half of the time of a product with few rows; here it does so once."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        self._is_packed = on_cpu and is_fast_in_bfloat16(weight.device)
        self._bias, self._weight = bias, weight
        if self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR)

    def __call__(self, rows: Tensor) -> Tensor:
        if self._is_packed:
            linear: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
            return linear(rows, self._weight, self._bias, "none", [], "")
        return F.linear(rows, self._weight, self._bias)


@dataclass(frozen=True)
class _Layer:
    attention_norm: RMSNorm
    qkv: _Linear
    out: _Linear
    mlp_norm: RMSNorm
    gate_up: _Linear
    down: _Linear


class Decoder:
    """A decoder of the Llama or Qwen2 family, with a cache that callers hold."""

    def __init__(
        self,
        base: BaseModel,
        *,
        device: str | torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        """``dtype``: by default bfloat16 where the device multiplies it fast. Raises
        :class:`ValueError` for another family."""
        self.shape: Backbone = base.backbone
        if self.shape.qk_norm or self.shape.output_bias or self.shape.mlp_bias:
            raise ValueError("the sampler knows decoders of the Llama and Qwen2 families")
        self.device = torch.device(device)
        narrow = is_fast_in_bfloat16(self.device)
        self.dtype = dtype or (torch.bfloat16 if narrow else torch.float32)
        self._rotary: dict[int, tuple[Tensor, Tensor]] = {}

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(base.weights[name]).to(self.dtype).to(self.device)

        def norm(name: str) -> RMSNorm:
            made = RMSNorm(self.shape.hidden_size, self.shape.rms_norm_eps)
            made.weight = torch.nn.Parameter(tensor(name), requires_grad=False)
            return made

        def linear(prefix: str, parts: Sequence[str], *, bias: bool = False) -> _Linear:
            def joined(kind: str) -> Tensor:
                return torch.cat([tensor(f"{prefix}{part}_proj.{kind}") for part in parts])

            return _Linear(joined("weight"), joined("bias") if bias else None)

        self._layers = [
            _Layer(
                norm(f"{at}input_layernorm.weight"),
                linear(f"{at}self_attn.", "qkv", bias=self.shape.qkv_bias),
                linear(f"{at}self_attn.", "o"),
                norm(f"{at}post_attention_layernorm.weight"),
                linear(f"{at}mlp.", ("gate", "up")),
                linear(f"{at}mlp.", ("down",)),
            )
            for at in (f"model.layers.{index}." for index in range(self.shape.num_layers))
        ]
        self._embedding = tensor("model.embed_tokens.weight")
        tied = "lm_head.weight" not in base.weights
        self._head = _Linear(self._embedding if tied else tensor("lm_head.weight"))
        self._norm = norm("model.norm.weight")

    def prefix(self, token_ids: Sequence[int]) -> Cache:
        """The cache of a beginning that all rows have."""
        cache = self.empty_cache(1, len(token_ids))
        if token_ids:
            self.prefill(torch.tensor([list(token_ids)], device=self.device), cache)
        return [kept[:, 0] for kept in cache]

    def prefill(self, token_ids: Tensor, cache: Cache, prefix: Cache | None = None) -> Tensor:
        """Run right-padded prompts [rows, length] after ``prefix`` and fill ``cache``, which has as
        many rows; the hidden states [rows, length, hidden] before the final norm."""
        rows, length = token_ids.shape
        before = prefix[0].shape[2] if prefix else 0
        cos, sin = (table[before:] for table in self._tables(before + length))
        visible = torch.ones(length, before + length, dtype=torch.bool, device=self.device)
        visible = visible.tril(before)
        groups = self.shape.num_heads // self.shape.num_kv_heads
        hidden = F.embedding(token_ids, self._embedding)
        for index, (layer, kept) in enumerate(zip(self._layers, cache, strict=True)):
            query, key, value = self._project(layer, hidden)
            query, key = (rotate(x.transpose(1, 2), cos, sin) for x in (query, key))
            kept[0, :, :, :length], kept[1, :, :, :length] = key, value.transpose(1, 2)
            seen = kept[:, :, :, :length]
            if prefix and before:
                first = prefix[index][:, None].expand(-1, rows, -1, -1, -1)
                seen = torch.cat((first, seen), dim=3)
            keys, values = seen.repeat_interleave(groups, 2)
            mixed = F.scaled_dot_product_attention(
                query,
                keys,
                values,
                attn_mask=visible if before else None,
                is_causal=not before,
            )
            hidden = self._after_attention(
                layer, hidden, mixed.transpose(1, 2).reshape(rows, length, -1)
            )
        return hidden

    def decode(
        self, tokens: Tensor, positions: Tensor, cache: Cache, span: int, prefix: Cache
    ) -> Tensor:
        """One token [rows] of each row at its own position [rows] after the ``prefix``, attending
        to that and to the first ``span`` places of the cache up to itself; logits float32
        [rows, vocab_size]."""
        rows, shape = len(tokens), self.shape
        before = prefix[0].shape[2]
        tables = self._tables(before + span)
        cos, sin = (table[before + positions][:, None] for table in tables)
        every = torch.arange(rows, device=self.device)
        visible = torch.arange(span, device=self.device) <= positions[:, None]
        visible = visible[:, None, None, :]
        hidden = F.embedding(tokens, self._embedding)
        for layer, kept, first in zip(self._layers, cache, prefix, strict=True):
            query, key, value = self._project(layer, hidden)
            kept[0, every, :, positions] = rotate(key, cos, sin)
            kept[1, every, :, positions] = value
            # The query heads that share a key head are its rows: nothing is repeated.
            grouped = rotate(query, cos, sin).view(rows, shape.num_kv_heads, -1, shape.head_dim)
            mixed = _attend(grouped, kept[:, :, :, :span], visible, first)
            hidden = self._after_attention(layer, hidden, mixed.reshape(rows, -1))
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head(self._norm(hidden)).float()

    def empty_cache(self, rows: int, length: int) -> Cache:
        size = (2, rows, self.shape.num_kv_heads, length, self.shape.head_dim)
        return [torch.empty(size, dtype=self.dtype, device=self.device) for _ in self._layers]

    def _project(self, layer: _Layer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        sizes = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        joined = layer.qkv(layer.attention_norm(hidden))
        heads = joined.view(*hidden.shape[:-1], sum(sizes), shape.head_dim)
        query, key, value = torch.split(heads, list(sizes), dim=-2)
        return query, key, value

    def _after_attention(self, layer: _Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + layer.out(mixed)
        gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + layer.down(F.silu(gate) * up)

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        if length not in self._rotary:
            cos, sin = map(torch.from_numpy, rotary_tables(length, self.shape))
            self._rotary[length] = cos.to(self.device, self.dtype), sin.to(self.device, self.dtype)
        return self._rotary[length]


def _attend(query: Tensor, kept: Tensor, visible: Tensor, prefix: Tensor) -> Tensor:
    """Attention of one token a row, [rows, KV heads, query heads a KV head, head_dim].

    ``kept`` [2, rows, KV heads, span, head_dim], ``prefix`` [2, KV heads, length, head_dim].
    """
    if not prefix.shape[2]:
        return F.scaled_dot_product_attention(query, kept[0], kept[1], attn_mask=visible)
    rows, kv_heads, _, size = query.shape
    # All rows meet the same prefix: for it they are the queries of one sequence.
    together = query.transpose(0, 1).reshape(1, kv_heads, -1, size)
    to_prefix, mass_of_prefix = _attend_with_mass(together, prefix[:, None])
    to_prefix = to_prefix.view(kv_heads, rows, -1, size).transpose(0, 1)
    mass_of_prefix = mass_of_prefix.view(kv_heads, rows, -1).transpose(0, 1)
    to_own, mass_of_own = _attend_with_mass(query, kept, visible)
    share = (mass_of_prefix - mass_of_own).sigmoid()[..., None]
    return torch.lerp(to_own.float(), to_prefix.float(), share).to(query.dtype)


def _attend_with_mass(
    query: Tensor, kept: Tensor, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention, and the logsumexp of the scores of each query, by which two parts are joined."""
    hidden = None
    if visible is not None:
        hidden = torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, -torch.inf)
        hidden = hidden.expand(*query.shape[:3], -1)
    if query.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, mass = flash(query, *kept, attn_mask=hidden)
        return mixed, mass
    return _attend_by_hand(query, kept, hidden)


def _attend_by_hand(query: Tensor, kept: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (query @ kept[0].mT).float() * query.shape[-1] ** -0.5
    scores = scores if hidden is None else scores + hidden
    mass = scores.logsumexp(-1)
    return (scores - mass[..., None]).exp().to(query.dtype) @ kept[1], mass
