"""The network's weights as a packed pass wants them: joined, narrowed, on the device.

Query, key and value are one linear layer, and so are gate and up: half as many launches, each of
them larger.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.backends.torch import PRMNetwork


@dataclass(frozen=True)
class Linear:
    weight: Tensor  # [out, in]
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Layer:
    attention_norm: Tensor  # [hidden]
    qkv: Linear  # queries, then keys, then values
    qk_norm: Tensor | None  # [num_heads + num_kv_heads, head_dim]
    output: Linear
    mlp_norm: Tensor  # [hidden]
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class PackedWeights:
    shape: Backbone
    embeddings: Tensor  # [vocabulary, hidden]
    layers: tuple[Layer, ...]
    norm: nn.Module
    """The last norm and the head keep the precision they came in, as in exported graphs."""
    head: nn.Module

    @property
    def dtype(self) -> torch.dtype:
        return self.embeddings.dtype


def pack_weights(network: PRMNetwork, device: torch.device, dtype: torch.dtype) -> PackedWeights:
    """A copy of ``network``, layer by layer, so that the device never holds more than that."""

    def move(x: Tensor) -> Tensor:
        return x.detach().to(dtype).to(device)  # narrowed first: less to move

    def join(*linears: Any) -> Linear:
        weight = torch.cat([move(linear.weight) for linear in linears])
        biased = linears[0].bias is not None
        return Linear(
            weight, torch.cat([move(linear.bias) for linear in linears]) if biased else None
        )

    def layer_of(layer: Any) -> Layer:
        attention, mlp, shape = layer.self_attn, layer.mlp, network.shape
        qk_norm = None
        if shape.qk_norm:
            query_norm = move(attention.q_norm.weight).expand(shape.num_heads, -1)
            key_norm = move(attention.k_norm.weight).expand(shape.num_kv_heads, -1)
            qk_norm = torch.cat((query_norm, key_norm))
        return Layer(
            attention_norm=move(layer.input_layernorm.weight),
            qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
            qk_norm=qk_norm,
            output=join(attention.o_proj),
            mlp_norm=move(layer.post_attention_layernorm.weight),
            gate_up=join(mlp.gate_proj, mlp.up_proj),
            down=join(mlp.down_proj),
        )

    layers: Any = network.model.layers
    with torch.no_grad():
        return PackedWeights(
            shape=network.shape,
            embeddings=move(network.model.embed_tokens.weight),
            layers=tuple(layer_of(layer) for layer in layers),
            norm=deepcopy(network.model.norm).to(device),
            head=deepcopy(network.score).to(device),
        )
