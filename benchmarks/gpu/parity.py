"""How far packed scores are from the reference network in float32, and one way of computing from
another."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.engines import Packed, Scores, probability
from benchmarks.gpu.workloads import independent
from rfprm_runtime.backends.packed_torch import PackedTorchBackend
from rfprm_runtime.backends.packed_torch.attention import (
    Spans,
    attend_at_once,
    attend_by_row,
    can_use_flash,
)
from rfprm_runtime.backends.packed_torch.operations import PlainOperations, operations_for
from rfprm_runtime.backends.torch import DType, PRMNetwork, TorchBackend
from rfprm_runtime.engine.rows import Extension, TokenRow, pad_batch

_PIECES = 3


def against_reference(
    network: PRMNetwork, reference: PRMNetwork, device: str, reference_device: str
) -> dict[str, Any]:
    """Differences of probability from ``reference`` in float32, whole rows and rows in pieces
    that go on from pasts, for each type, and both again as CUDA graphs."""
    vocab = network.shape.vocab_size
    rows = independent(6, 384, vocab, mixed=True, seed=3)
    exact = TorchBackend(reference, device=reference_device)
    expected = [probability(exact.run(pad_batch([row]))) for row in rows]
    exact.close()
    found: dict[str, Any] = {
        "rows": [row.num_tokens for row in rows],
        "reference": f"float32 on {reference_device}",
        "spread": float(np.concatenate(expected).std()),
    }
    for dtype in get_args(DType):
        backend = PackedTorchBackend(network, device=device, dtype=dtype)
        packed = Packed(backend)
        found[dtype] = {
            "whole": difference(packed(rows), expected),
            "in pieces": difference(_in_pieces(packed, rows), expected),
        }
        for _ in range(2):  # from the second time on, short passes are CUDA graphs
            again = packed(rows), _in_pieces(packed, rows)
        found[dtype]["whole, again"] = difference(again[0], expected)
        found[dtype]["in pieces, again"] = difference(again[1], expected)
        backend.close()
    return found


def _in_pieces(packed: Packed, rows: list[TokenRow]) -> Scores:
    """All rows at once, a third at a time, each after the past that the third before left."""
    pasts: list[Any] = [None] * len(rows)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in rows]
    for piece in range(_PIECES):
        items = []
        for row, past in zip(rows, pasts, strict=True):
            begin, end = (row.num_tokens * part // _PIECES for part in (piece, piece + 1))
            inside = row.marker_positions[
                (row.marker_positions >= begin) & (row.marker_positions < end)
            ]
            items.append(Extension(row.token_ids[begin:end], inside - begin, past, keep=True))
        done = packed.extend(items)
        pasts = [extended.past for extended in done]
        for scores, extended in zip(parts, done, strict=True):
            scores.append(probability(extended.logits))
    return [np.concatenate(scores) for scores in parts]


def difference(found: Scores, expected: Scores) -> dict[str, float]:
    apart = np.abs(np.concatenate(found) - np.concatenate(expected))
    return {"mean": float(apart.mean()), "max": float(apart.max())}


def of_operations(device: str) -> dict[str, float]:
    """Largest relative differences between fused operations and their plain twins, and between
    attention at once and row by row."""
    plain, fused = PlainOperations(), operations_for(torch.device(device))
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device).to(dtype)

    found: dict[str, float] = {"fused": float(type(fused) is not PlainOperations)}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        x, delta = (random(77, 3584, dtype=dtype) for _ in range(2))
        weight = random(3584, dtype=dtype)
        sums = [x.clone(), x.clone()]
        normed = [
            operations.add_norm(total, delta, weight, 1e-6)
            for operations, total in zip((plain, fused), sums, strict=True)
        ]
        found[f"add_norm {name}"] = max(_apart(*sums), _apart(*normed))
        gate_up = random(77, 2 * 4864, dtype=dtype)
        found[f"swiglu {name}"] = _apart(plain.swiglu(gate_up), fused.swiglu(gate_up))
        angles = torch.rand(512, 64, generator=generator, device=device) * 6
        positions = torch.randint(0, 512, (77,), generator=generator, device=device)
        for norm in (None, random(32, 128, dtype=dtype)):
            qkv = random(77, 36 * 128, dtype=dtype)
            both = [qkv, qkv.clone()]
            for operations, qkv in zip((plain, fused), both, strict=True):
                heads = qkv.view(77, -1, 128)[:, :32]
                operations.rotate_heads(heads, positions, angles.cos(), angles.sin(), norm, 1e-6)
            found[f"rotate {name}{' with norms' if norm is not None else ''}"] = _apart(*both)
        if can_use_flash(torch.device(device), dtype, 128):
            spans = _spans([5, 130, 1, 64], [0, 77, 300, 0], device)
            tokens, keys = int(spans.query_ends[-1]), int(spans.key_ends[-1])
            query = random(tokens, 28, 128, dtype=dtype)
            key, value = (random(keys, 4, 128, dtype=dtype) for _ in range(2))
            found[f"attention {name}"] = _apart(
                attend_at_once(query, key, value, spans), attend_by_row(query, key, value, spans)
            )
    return found


def _spans(new: list[int], past: list[int], device: str) -> Spans:
    query_ends = np.cumsum([0, *new])
    key_ends = np.cumsum([0, *(n + p for n, p in zip(new, past, strict=True))])
    on_query, on_key = (
        torch.from_numpy(ends.astype(np.int32)).to(device) for ends in (query_ends, key_ends)
    )
    longest = max(n + p for n, p in zip(new, past, strict=True))
    return Spans(on_query, on_key, max(new), longest)


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm())
