"""The weights of the float32 kernels, as the files of other backends hold them.

An fp32 artifact has one copy of its weights: in the data of ``model.onnx``, matrices [inputs,
outputs] as the kernels read them, or in ``model.safetensors``, for torch, [outputs, inputs], which
are turned around when they are read. Here both get the names that
:mod:`~rfprm_runtime.backends.native.structures` asks for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import ONNX_NAME, TORCH_NAME, Manifest
from rfprm_runtime.artifact.onnx_weights import Access, GraphWeights
from rfprm_runtime.artifact.tensors import LazyTensors, TensorFile
from rfprm_runtime.errors import ArtifactError

FLOAT32_FILES = (ONNX_NAME, TORCH_NAME)
"""The model files that the float32 kernels run."""
_PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "output": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_JOINED = {"qkv": "self_attn.qkv", "gate_up": "mlp.gate_up"}
"""What the graph calls several linears that it has as one."""
_NORMS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
}

_TABLES = {"rotary.cos", "rotary.sin"}
"""Of a graph; the kernels get theirs from the manifest."""


class _Source(NamedTuple):
    """Tensors of the file that are one tensor for the kernels."""

    names: tuple[str, ...]
    is_turned: bool = False


class Float32Weights(LazyTensors):
    """Tensors by the kernels' names. Each is looked up, or read, when it is asked for."""

    def __init__(self, file: ModelFile, manifest: Manifest, access: Access = "read") -> None:
        """``access``: of a graph's data. A torch file is read a tensor at a time in any case.

        Raises :class:`ArtifactError` if the file does not hold the manifest's network.
        """
        self.path = file.path
        self._weights: GraphWeights | TensorFile
        in_graph = file.name != TORCH_NAME
        self._weights = GraphWeights(file, access) if in_graph else TensorFile(file)
        if manifest.backbone.num_layers > len(self._weights):
            raise ArtifactError(
                f"{self.path} has {len(self._weights)} tensors, which are not "
                f"{manifest.backbone.num_layers} layers; export the artifact again"
            )
        sources = _sources(manifest, in_graph=in_graph)
        known = {name for source in sources.values() for name in source.names} | _TABLES
        if unknown := sorted(self._weights.keys() - known):
            raise ArtifactError(
                f"{self.path} has a weight {unknown[0]!r}, which the manifest's network does not "
                "have; export the artifact again, or load it with another backend"
            )
        self._known = {
            name: source
            for name, source in sources.items()
            if all(item in self._weights for item in source.names)
        }

    def check(self) -> None:
        """Raises :class:`ArtifactError` if the data of a graph were mapped and changed."""
        if isinstance(self._weights, GraphWeights):
            self._weights.check()

    def __getitem__(self, name: str) -> NDArray[Any]:
        source = self._known[name]
        found = [self._weights[item] for item in source.names]
        try:
            tensor = found[0] if len(found) == 1 else np.concatenate(found)
        except ValueError as error:
            raise ArtifactError(
                f"{self.path} holds {' and '.join(source.names)} of shapes that do not fit "
                f"({error}); export the artifact again"
            ) from None
        return np.ascontiguousarray(tensor.T) if source.is_turned else tensor


def _sources(manifest: Manifest, *, in_graph: bool) -> dict[str, _Source]:
    """Where each of the kernels' tensors comes from, there or not."""
    table = "embed_tokens" if in_graph else "model.embed_tokens.weight"
    found = {"embedding": _Source((table,)), "final_norm": _Source(("model.norm.weight",))}
    for index in range(manifest.backbone.num_layers):
        own, its = f"layers.{index}", f"model.layers.{index}"
        for name, norm in _NORMS.items():
            found[f"{own}.{name}"] = _Source((f"{its}.{norm}.weight",))
        for part, linears in _PARTS.items():
            names = (_JOINED.get(part, linears[0]),) if in_graph else linears
            for kind, turned in (("weight", not in_graph), ("bias", False)):
                items = tuple(f"{its}.{name}.{kind}" for name in names)
                found[f"{own}.{part}.{kind}"] = _Source(items, turned)
    heads = ["score"] if manifest.head.kind == "linear" else ["score.0", "score.2"]
    for number, head in enumerate(heads):  # the kernels want these [outputs, inputs]
        found[f"head.{number}.weight"] = _Source((f"{head}.weight",), in_graph)
        found[f"head.{number}.bias"] = _Source((f"{head}.bias",))
    return found
