"""Compares the fused operations of packed torch with their plain twins in Triton's interpreter.

A process of its own: whether Triton interprets or compiles is decided when it is imported.
"""

from __future__ import annotations

import torch

from rfprm_runtime.backends.packed_torch.fused import FusedOperations
from rfprm_runtime.backends.packed_torch.operations import PlainOperations

PLAIN, FUSED = PlainOperations(), FusedOperations()
# The interpreter cuts bfloat16 where a GPU rounds, so float16 stands for both.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2}


def check_add_norm(dtype: torch.dtype, tolerance: float) -> None:
    for tokens, hidden in ((5, 576), (1, 3584), (0, 64)):
        x, delta = torch.randn(2, tokens, hidden).to(dtype)
        weight = torch.randn(hidden).to(dtype)
        for added in (None, delta):
            ours, theirs = x.clone(), x.clone()
            normed = FUSED.add_norm(ours, added, weight, 1e-6)
            expected = PLAIN.add_norm(theirs, added, weight, 1e-6)
            torch.testing.assert_close(normed, expected, atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def check_rotate_heads(dtype: torch.dtype, tolerance: float) -> None:
    for heads, kv_heads, size in ((9, 3, 64), (28, 4, 128), (3, 1, 80)):
        angles = torch.rand(50, size // 2)
        positions = torch.randint(0, 50, (7,), dtype=torch.int32)
        for norm in (None, torch.randn(heads + kv_heads, size).to(dtype)):
            ours = torch.randn(7, (heads + 2 * kv_heads) * size).to(dtype)
            theirs, before = ours.clone(), ours.clone()
            for operations, qkv in ((FUSED, ours), (PLAIN, theirs)):
                turned = qkv.view(7, -1, size)[:, : heads + kv_heads]
                operations.rotate_heads(turned, positions, angles.cos(), angles.sin(), norm, 1e-6)
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
            values = (heads + kv_heads) * size
            assert torch.equal(ours[:, values:], before[:, values:])


def check_swiglu(dtype: torch.dtype, tolerance: float) -> None:
    for tokens, inner in ((4, 1500), (1, 64), (0, 96)):
        gate_up = torch.randn(tokens, 2 * inner).to(dtype)
        torch.testing.assert_close(
            FUSED.swiglu(gate_up), PLAIN.swiglu(gate_up), atol=tolerance, rtol=tolerance
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    for check in (check_add_norm, check_rotate_heads, check_swiglu):
        for dtype, tolerance in TOLERANCES.items():
            check(dtype, tolerance)
        print(check.__name__.removeprefix("check_"))
