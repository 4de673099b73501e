"""Causal attention of packed rows, each over its past and itself.

Queries are [tokens, heads, head_dim], keys and values [keys, kv_heads, head_dim], the rows of each
end to end. Where a row has more keys than queries, the queries are its last tokens.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from rfprm_runtime.backends.torch import mix

_FLASH_TYPES = (torch.float16, torch.bfloat16)
_FLASH_LARGEST_HEAD = 256


@dataclass(frozen=True)
class Spans:
    """Where the rows are: row i has queries [query_ends[i], query_ends[i + 1]) and so on."""

    query_ends: Tensor  # int32 [rows + 1] on the device, from 0
    key_ends: Tensor  # the same of keys
    longest_query: int
    longest_key: int


def can_use_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    return (
        device.type == "cuda"
        and dtype in _FLASH_TYPES
        and head_dim % 8 == 0
        and head_dim <= _FLASH_LARGEST_HEAD
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def attend_at_once(query: Tensor, key: Tensor, value: Tensor, spans: Spans) -> Tensor:
    """All rows in one launch of torch's variable-length flash attention.

    The operator beneath ``torch.nn.attention.varlen``, which came later and, up to torch 2.12,
    takes no fewer key heads than query heads.
    """
    mixed: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        spans.query_ends,
        spans.key_ends,
        spans.longest_query,
        spans.longest_key,
        0.0,  # dropout
        True,  # causal, aligned at the last key of each row
        False,  # no debug mask
    )[0]
    return mixed


def attend_by_row(query: Tensor, key: Tensor, value: Tensor, spans: Spans) -> Tensor:
    """A launch for each row, for what flash attention does not take: its slow, obvious twin."""
    query_ends, key_ends = spans.query_ends.tolist(), spans.key_ends.tolist()
    mixed = torch.empty_like(query)
    group = query.shape[1] // key.shape[1]
    bounds = zip(itertools.pairwise(query_ends), itertools.pairwise(key_ends), strict=True)
    for (begin, end), (first_key, end_of_keys) in bounds:
        if begin == end:
            continue
        new, seen = slice(begin, end), slice(first_key, end_of_keys)
        q, k, v = (x.transpose(0, 1)[None] for x in (query[new], key[seen], value[seen]))
        num_new, num_keys = q.shape[2], k.shape[2]
        visible = None
        if num_new < num_keys:
            ones = torch.ones(num_new, num_keys, dtype=torch.bool, device=query.device)
            visible = ones.tril(diagonal=num_keys - num_new)
        if group > 1 and (visible is not None or query.dtype == torch.float32):
            # With a mask, or in float32, no fused kernel takes fewer key heads than query heads.
            k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        mixed[new] = mix(q, k, v, visible)[0].transpose(0, 1)
    return mixed
