"""What happens to packed rows between the matrix products, in plain torch.

The slow, obvious twin of :mod:`~rfprm_runtime.backends.packed_torch.fused`, and what runs where
Triton does not. ``x`` is [tokens, hidden]; ``heads`` is a view [tokens, heads, head_dim].
"""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rfprm_runtime.backends.torch import inverse_root, rotate


class Operations(Protocol):
    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """x += delta, in place; returns x / rms(x) · weight."""
        ...

    def rotate_heads(
        self,
        heads: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        norm: Tensor | None,
        eps: float,
    ) -> None:
        """Rotary embedding in place, after an RMSNorm of each head where ``norm`` [heads,
        head_dim] is given. ``cos`` and ``sin`` are float32 [positions, head_dim / 2]."""
        ...

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) · up of [tokens, 2 · inner], gates first."""
        ...


class PlainOperations:
    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        if delta is not None:
            x += delta
        return _normalize(x, eps) * weight

    def rotate_heads(
        self,
        heads: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        norm: Tensor | None,
        eps: float,
    ) -> None:
        x = heads if norm is None else _normalize(heads, eps) * norm
        at = (table[positions].to(x.dtype)[:, None] for table in (cos, sin))
        heads.copy_(rotate(x, *at))

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up


def _normalize(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * inverse_root(wide.pow(2).mean(-1, keepdim=True), eps)).to(x.dtype)


def operations_for(device: torch.device) -> Operations:
    """Fused kernels on a GPU with Triton, which torch brings along on Linux."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from rfprm_runtime.backends.packed_torch.fused import FusedOperations

        return FusedOperations()
    return PlainOperations()
