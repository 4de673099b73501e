"""The same operations as Triton kernels: every value is read once and written once.

In plain torch a layer's norms, rotation and activation move about five times as many bytes, which
on a small model takes longer than its matrix products.
"""

# ruff: noqa: N803  (what Triton compiles for is written in capitals)
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_SWIGLU_BLOCK = 1024
_HEADS_BLOCK = 16


@triton.jit
def _add_norm_kernel(
    x,
    delta,
    weight,
    out,
    hidden,
    eps,
    HAS_DELTA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * hidden
    column = tl.arange(0, BLOCK)
    inside = column < hidden
    row = tl.load(x + at + column, mask=inside, other=0.0)
    if HAS_DELTA:
        added = row.to(tl.float32) + tl.load(delta + at + column, mask=inside, other=0.0).to(
            tl.float32
        )
        row = added.to(row.dtype)
        tl.store(x + at + column, row, mask=inside)
    wide = row.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / hidden + eps)
    normed = (wide * scale).to(row.dtype).to(tl.float32)
    scaled = normed * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at + column, scaled.to(row.dtype), mask=inside)


@triton.jit
def _rotate_kernel(
    heads, positions, cos, sin, norm, row_stride, num_heads, half, eps,
    HAS_NORM: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    lane = tl.arange(0, HALF)[None, :]
    inside = (head < num_heads) & (lane < half)
    within = head * 2 * half + lane
    at = heads + token * row_stride + within
    low = tl.load(at, mask=inside, other=0.0)
    kept = low.dtype
    low = low.to(tl.float32)
    high = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares = tl.sum(low * low + high * high, axis=1)[:, None]
        scale = tl.rsqrt(squares / (2 * half) + eps)
        low = low * scale * tl.load(norm + within, mask=inside, other=0.0).to(tl.float32)
        high = high * scale * tl.load(norm + within + half, mask=inside, other=0.0).to(tl.float32)
    turn = tl.load(positions + token) * half + lane
    c = tl.load(cos + turn, mask=lane < half, other=0.0)
    s = tl.load(sin + turn, mask=lane < half, other=0.0)
    tl.store(at, (low * c - high * s).to(kept), mask=inside)
    tl.store(at + half, (high * c + low * s).to(kept), mask=inside)


@triton.jit
def _swiglu_kernel(gate_up, out, inner, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inner
    at = gate_up + token * 2 * inner + column
    gate = tl.load(at, mask=inside, other=0.0)
    wide = gate.to(tl.float32)
    up = tl.load(at + inner, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * inner + column, (wide * tl.sigmoid(wide) * up).to(gate.dtype), inside)


class FusedOperations:
    """:class:`~rfprm_runtime.backends.packed_torch.operations.Operations` on CUDA tensors whose
    rows are contiguous."""

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(x)
        tokens, hidden = x.shape
        if tokens:
            block = triton.next_power_of_2(hidden)
            _add_norm_kernel[(tokens,)](
                x, x if delta is None else delta, weight, out, hidden, eps,
                HAS_DELTA=delta is not None, BLOCK=block, num_warps=4 if block <= 2048 else 8,
            )  # fmt: skip
        return out

    def rotate_heads(
        self,
        heads: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        norm: Tensor | None,
        eps: float,
    ) -> None:
        tokens, num_heads, size = heads.shape
        grid: Any = (tokens, triton.cdiv(num_heads, _HEADS_BLOCK))
        _rotate_kernel[grid](
            heads, positions, cos, sin, cos if norm is None else norm,
            heads.stride(0), num_heads, size // 2, eps,
            HAS_NORM=norm is not None, HEADS=_HEADS_BLOCK, HALF=triton.next_power_of_2(size // 2),
        )  # fmt: skip

    def swiglu(self, gate_up: Tensor) -> Tensor:
        tokens, inner = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(tokens, inner)
        if tokens:
            _swiglu_kernel[(tokens, triton.cdiv(inner, _SWIGLU_BLOCK))](
                gate_up, out, inner, BLOCK=_SWIGLU_BLOCK
            )
        return out
