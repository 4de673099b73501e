"""The torch network over many rows at once, packed end to end, each after a past of its own.

Made for GPUs: nothing is padded, the products see all rows together, and what rows have in common
is computed once. Attention runs row by row. On a CPU the native kernels do the same, faster and to
the bit.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rfprm_runtime.arguments import check_whole
from rfprm_runtime.backends.torch import DType, PRMNetwork, TorchBackend, mix
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenBatch
from rfprm_runtime.errors import BackendError
from rfprm_runtime.rotary import rotary_tables


@dataclass(frozen=True, eq=False)
class TorchBlock:
    """Keys and values of some tokens: [layers, 2, kv_heads, tokens, head_dim]."""

    content: Tensor

    @property
    def num_bytes(self) -> int:
        return self.content.numel() * self.content.element_size()


@dataclass(frozen=True, eq=False)
class TorchPast:
    """A :class:`~rfprm_runtime.engine.rows.Past` of blocks, one for each extension that made it."""

    blocks: tuple[TorchBlock, ...]

    @property
    def num_tokens(self) -> int:
        return sum(int(block.content.shape[3]) for block in self.blocks)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of layer ``index``, [1, kv_heads, tokens, head_dim] each."""
        parts = [block.content[index] for block in self.blocks]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return joined[0][None], joined[1][None]


class PackedTorchBackend(TorchBackend):
    """A :class:`~rfprm_runtime.engine.backend.CachingBackend`, to the rounding of its type: a
    score may differ by about 1e-6 (float32) or 1e-2 (bfloat16) with what runs beside it."""

    def __init__(
        self,
        network: PRMNetwork,
        *,
        device: str | torch.device | None = None,
        dtype: DType = "float32",
        max_batch_tokens: int = 16_384,
    ) -> None:
        """``max_batch_tokens``: new tokens of one pass over the weights."""
        check_whole("max_batch_tokens", max_batch_tokens)
        super().__init__(network, device=device, dtype=dtype)
        self.limits = BackendLimits(max_batch_size=256, max_batch_tokens=max_batch_tokens)
        self.description += ", packed"
        self._rotary = _RotaryTables(network, self._device)

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        length = batch.token_ids.shape[1]
        rows, columns = np.divmod(batch.marker_positions, length)
        items = [
            Extension(ids[:size], columns[rows == row])
            for row, (ids, size) in enumerate(zip(batch.token_ids, batch.lengths, strict=True))
        ]
        return np.concatenate([extended.logits for extended in self.extend(items)])

    def extend(self, extensions: Sequence[Extension], threads: int = 1) -> list[Extended]:
        """See :class:`~rfprm_runtime.engine.backend.CachingBackend`."""
        network = self._network
        if network is None:
            raise BackendError("the backend was closed; load the scorer again")
        for item in extensions:
            if not isinstance(item.past, TorchPast | None):
                raise BackendError(
                    f"got a past of type {type(item.past).__name__}, expected one that this "
                    "backend made"
                )
        try:
            with torch.inference_mode():
                return _Pass(network, self._rotary, extensions, self._device).run()
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"the device is out of memory with {sum(len(i.token_ids) for i in extensions)} "
                "tokens in a pass; load with a smaller max_batch_tokens or session_bytes"
            ) from error


class _RotaryTables:
    """Of as many positions as were ever asked for."""

    def __init__(self, network: PRMNetwork, device: torch.device) -> None:
        self._shape, self._device = network.shape, device
        self._lock = threading.Lock()
        self._cos, self._sin = torch.empty(0), torch.empty(0)

    def of(self, positions: Tensor, dtype: torch.dtype, longest: int) -> tuple[Tensor, Tensor]:
        """cos and sin at ``positions``, [num_tokens, head_dim / 2] each."""
        with self._lock:
            if len(self._cos) < longest:
                room = 1 << (longest - 1).bit_length()
                tables = rotary_tables(room, self._shape.head_dim, self._shape.rope_theta)
                self._cos, self._sin = (torch.from_numpy(t).to(self._device) for t in tables)
            cos, sin = self._cos, self._sin
        return cos[positions].to(dtype), sin[positions].to(dtype)


def _mix(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """:func:`~rfprm_runtime.backends.torch.mix`, in a way for which a GPU has a fused kernel: with
    a mask, or in float32, none takes fewer key heads than query heads, so they are repeated."""
    group = query.shape[1] // key.shape[1]
    if group > 1 and (visible is not None or query.dtype == torch.float32):
        key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    return mix(query, key, value, visible)


class _Pass:
    """One pass over the weights: the new tokens of all items in one row."""

    def __init__(
        self,
        network: PRMNetwork,
        rotary: _RotaryTables,
        items: Sequence[Extension],
        device: torch.device,
    ) -> None:
        self._network, self._items, self._device = network, items, device
        self._ends = np.cumsum([len(item.token_ids) for item in items])
        self._begins = [0, *(int(end) for end in self._ends[:-1])]
        spans = [
            np.arange(item.num_past_tokens, item.num_past_tokens + len(item.token_ids))
            for item in items
        ]
        positions = np.concatenate(spans)
        longest = int(positions.max()) + 1
        self._dtype = network.model.embed_tokens.weight.dtype
        self._cos, self._sin = rotary.of(self._tensor(positions), self._dtype, longest)
        self._visible = [self._visible_to(item) for item in items]
        self._kept: list[list[Tensor]] = [[] for _ in items]

    def run(self) -> list[Extended]:
        network, items = self._network, self._items
        hidden = network.embed(self._tensor(np.concatenate([i.token_ids for i in items])))[None]
        markers = self._tensor(
            np.concatenate(
                [i.marker_positions + b for i, b in zip(items, self._begins, strict=True)]
            )
        )
        layers: Any = network.model.layers
        for index, layer in enumerate(layers):
            hidden = hidden + self._attend(index, layer, hidden)
            if index == len(layers) - 1:  # only marker rows are read after the last attention
                hidden = hidden[:, markers]
            hidden = layer.feed_forward(hidden)
        logits = network.score(network.model.norm(hidden[0].float())).float().cpu().numpy()
        counts = np.cumsum([len(item.marker_positions) for item in items])[:-1]
        return [
            Extended(part, self._past(number))
            for number, part in enumerate(np.split(logits, counts))
        ]

    def _attend(self, index: int, layer: Any, hidden: Tensor) -> Tensor:
        attention = layer.self_attn
        query, key, value = attention.project(layer.input_layernorm(hidden), self._cos, self._sin)
        mixed = torch.empty_like(query)
        for number, item in enumerate(self._items):
            begin, end = self._begins[number], int(self._ends[number])
            keys, values = key[:, :, begin:end], value[:, :, begin:end]
            if item.keep:
                self._kept[number].append(torch.stack((keys[0], values[0])))
            if isinstance(item.past, TorchPast):
                past_keys, past_values = item.past.layer(index)
                keys = torch.cat((past_keys, keys), dim=2)
                values = torch.cat((past_values, values), dim=2)
            mixed[:, :, begin:end] = _mix(
                query[:, :, begin:end], keys, values, self._visible[number]
            )
        merged: Tensor = attention.merge(mixed)
        return merged

    def _visible_to(self, item: Extension) -> Tensor | None:
        """None where attention is plainly causal."""
        past, new = item.num_past_tokens, len(item.token_ids)
        if past == 0:
            return None
        ones = torch.ones(new, past + new, dtype=torch.bool, device=self._device)
        return ones.tril(diagonal=past)

    def _past(self, number: int) -> TorchPast | None:
        item = self._items[number]
        if not item.keep:
            return None
        before = item.past.blocks if isinstance(item.past, TorchPast) else ()
        return TorchPast((*before, TorchBlock(torch.stack(self._kept[number]))))

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(self._device)
