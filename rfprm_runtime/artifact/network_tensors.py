"""Which tensors the network has, by Hugging Face's names. Knows shapes, no values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.errors import RfprmError

Shape = tuple[int, ...]


class HasShape(Protocol):
    @property
    def shape(self) -> Shape: ...


def check_tensors(
    found: Mapping[str, HasShape], backbone: Backbone, head: Head, *, refusal: type[RfprmError]
) -> None:
    """Check that ``found`` holds the network's tensors and no others, each of its shape.

    Stops at the first that is missing, so a manifest that promises a million layers costs no more
    than the tensors that are there. Raises ``refusal``.
    """
    names = set()
    for name, shape in network_tensors(backbone, head):
        came = found[name].shape if name in found else None
        if came is None or tuple(came) != shape:
            raise refusal(
                f"the weights hold {name} of shape {came}, the network needs {shape}; check that "
                "the weights and their description belong together"
                if came is not None
                else f"the weights lack {name}, of shape {shape}; check that the weights and their "
                "description belong together"
            )
        names.add(name)
    if unknown := sorted(found.keys() - names):
        raise refusal(
            f"the weights hold {unknown[0]!r}, which the network does not have; check that the "
            "weights and their description belong together"
        )


def network_tensors(backbone: Backbone, head: Head) -> Iterator[tuple[str, Shape]]:
    """The name and the shape of every tensor, the layers in order."""
    hidden = backbone.hidden_size
    yield "model.embed_tokens.weight", (backbone.vocab_size, hidden)
    for layer in range(backbone.num_layers):
        for name, shape in _layer_tensors(backbone):
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (hidden,)
    if head.kind == "mlp_relu":
        yield from _linear("score.0", hidden, hidden, bias=True)
        yield from _linear("score.2", head.num_labels, hidden, bias=True)
    else:
        yield from _linear("score", head.num_labels, hidden, bias=True)


def _layer_tensors(backbone: Backbone) -> Iterator[tuple[str, Shape]]:
    hidden, inner = backbone.hidden_size, backbone.intermediate_size
    queries = backbone.num_heads * backbone.head_dim
    keys = backbone.num_kv_heads * backbone.head_dim
    yield "input_layernorm.weight", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    for name, size in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        yield from _linear(f"self_attn.{name}", size, hidden, bias=backbone.qkv_bias)
    yield from _linear("self_attn.o_proj", hidden, queries, bias=backbone.output_bias)
    if backbone.qk_norm:
        yield "self_attn.q_norm.weight", (backbone.head_dim,)
        yield "self_attn.k_norm.weight", (backbone.head_dim,)
    for name in ("gate_proj", "up_proj"):
        yield from _linear(f"mlp.{name}", inner, hidden, bias=backbone.mlp_bias)
    yield from _linear("mlp.down_proj", hidden, inner, bias=backbone.mlp_bias)


def _linear(name: str, rows: int, columns: int, *, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)
