"""Networks of published shapes with random weights. Speed does not depend on the weights, and how
well the engines agree is measured on them too."""

from __future__ import annotations

from typing import Any

import torch

from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.backends.torch import PRMNetwork

HEAD = Head(kind="linear", num_labels=2)


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int) -> Backbone:
    return Backbone(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=vocab,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        qkv_bias=True,
    )


SHAPES = {
    "tiny": Backbone(
        hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=300, rms_norm_eps=1e-6, rope_theta=1e4, qkv_bias=True,
    ),
    "135M": Backbone(
        hidden_size=576, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64,
        intermediate_size=1536, vocab_size=49152, rms_norm_eps=1e-5, rope_theta=1e5, qkv_bias=True,
    ),
    "1.5B": _qwen(1536, 28, 12, 2, 8960, 151936),
    "7B": _qwen(3584, 28, 28, 4, 18944, 152064),
}  # fmt: skip
"""SmolLM2-135M, Qwen2.5-1.5B and Qwen2.5-7B, all with Qwen2's biases, so that one class of
transformers reads them."""


def random_network(shape: Backbone, device: str) -> PRMNetwork:
    """Seeded, float32, with activations of about unit size all the way."""
    torch.manual_seed(0)
    with torch.device(device):
        network = PRMNetwork(shape, HEAD)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(std=0.5 / parameter.shape[1] ** 0.5)
        head: Any = network.score
        head.weight.normal_(std=1.0 / shape.hidden_size**0.5)
    return network.eval()


def linear_operations(shape: Backbone) -> float:
    """Multiplications and additions of a token's matrix products, without attention."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    weights = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
    return 2.0 * shape.num_layers * weights


def attention_operations(shape: Backbone) -> float:
    """Multiplications and additions of a query and a key that it sees, in all layers."""
    return 4.0 * shape.num_layers * shape.num_heads * shape.head_dim
