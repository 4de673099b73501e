"""The layers, over the packed tokens of one pass. Launches only: nothing here waits for the device,
so that a pass can be captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rfprm_runtime.backends.packed_torch.attention import Spans
from rfprm_runtime.backends.packed_torch.operations import Operations
from rfprm_runtime.backends.packed_torch.plan import PassShape, split_indices
from rfprm_runtime.backends.packed_torch.weights import Layer, PackedWeights

Attend = Callable[[Tensor, Tensor, Tensor, Spans], Tensor]


@dataclass(frozen=True)
class PassInputs:
    """On the device; integers are int32."""

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    markers: Tensor  # [markers], into the tokens
    spans: Spans
    past: Tensor | None  # [layers, past tokens, 2 · kv_heads · head_dim]
    keys: Tensor  # [keys], into the past tokens and the new ones behind them; where there is a past
    kept: Tensor  # [kept], into the tokens

    @classmethod
    def of(cls, indices: Tensor, shape: PassShape, past: Tensor | None) -> PassInputs:
        """From :meth:`~rfprm_runtime.backends.packed_torch.plan.PassPlan.indices`."""
        ids, positions, markers, query_ends, key_ends, keys, kept = split_indices(indices, shape)
        spans = Spans(query_ends, key_ends, shape.longest_query, shape.longest_key)
        return cls(ids, positions, markers, spans, past, keys, kept)


@dataclass(frozen=True)
class PassOutputs:
    logits: Tensor  # float32 [markers, num_labels]
    kept: Tensor | None  # [layers, kept, 2 · kv_heads · head_dim]


@dataclass(frozen=True)
class Forward:
    weights: PackedWeights
    operations: Operations
    attend: Attend

    def __call__(self, inputs: PassInputs, cos: Tensor, sin: Tensor) -> PassOutputs:
        """``cos``, ``sin``: float32 [positions, head_dim / 2]."""
        weights, do = self.weights, self.operations
        shape = weights.shape
        eps = shape.rms_norm_eps
        x = F.embedding(inputs.ids, weights.embeddings)  # [tokens, hidden]
        delta: Tensor | None = None
        kept = None
        if len(inputs.kept):
            size = 2 * shape.num_kv_heads * shape.head_dim
            kept = x.new_empty(shape.num_layers, len(inputs.kept), size)
        for index, layer in enumerate(weights.layers):
            normed = do.add_norm(x, delta, layer.attention_norm, eps)
            heads, keys_values = self._project(layer, normed, inputs, cos, sin)
            if kept is not None:
                torch.index_select(keys_values, 0, inputs.kept, out=kept[index])
            if inputs.past is not None:
                keys_values = torch.cat((inputs.past[index], keys_values))[inputs.keys]
            mixed = self._mix(heads, keys_values, inputs.spans)
            if index == shape.num_layers - 1:  # only marker rows are read from here on
                x, mixed = x[inputs.markers], mixed[inputs.markers]
            normed = do.add_norm(x, layer.output(mixed), layer.mlp_norm, eps)
            delta = layer.down(do.swiglu(layer.gate_up(normed)))
        last = x if delta is None else x + delta
        return PassOutputs(weights.head(weights.norm(last.float())).float(), kept)

    def _project(
        self, layer: Layer, normed: Tensor, inputs: PassInputs, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries [tokens, heads, head_dim], and keys and values [tokens, 2 · kv_heads ·
        head_dim], rotated."""
        shape = self.weights.shape
        qkv = layer.qkv(normed)
        heads = qkv.view(len(qkv), -1, shape.head_dim)
        turned = heads[:, : shape.num_heads + shape.num_kv_heads]
        self.operations.rotate_heads(
            turned, inputs.positions, cos, sin, layer.qk_norm, shape.rms_norm_eps
        )
        return heads[:, : shape.num_heads], qkv[:, shape.num_heads * shape.head_dim :]

    def _mix(self, queries: Tensor, keys_values: Tensor, spans: Spans) -> Tensor:
        """Attention before its output layer, [tokens, heads · head_dim]."""
        shape = self.weights.shape
        both = keys_values.view(len(keys_values), 2, shape.num_kv_heads, shape.head_dim)
        key, value = both.unbind(1)
        return self.attend(queries, key, value, spans).flatten(1)
