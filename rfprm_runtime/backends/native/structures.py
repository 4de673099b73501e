"""Fills the structures that the kernels take with the addresses of tensors, checked first.

What the kernels assume is in :mod:`~rfprm_runtime.backends.native.limits`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.tensors import check_finite_tensor, not_finite
from rfprm_runtime.backends.native.library import Layer, Linear, Model
from rfprm_runtime.backends.native.limits import (
    LINEARS,
    PANEL,
    check_input_limit,
    linear_shapes,
    padded_inner,
)
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.errors import ArtifactError


class StructureFiller:
    """Structures over ``tensors``, which must outlive them, and the filler too: it holds the rotary
    tables. All methods raise :class:`ArtifactError` for tensors that are not the manifest's."""

    def __init__(
        self,
        tensors: Mapping[str, NDArray[Any]],
        manifest: Manifest,
        path: Path,
        library: ctypes.CDLL,
    ) -> None:
        """``path``: of the file that they come from, for the errors."""
        self._tensors, self._path, self._library = tensors, path, library
        self._shape, self._head = manifest.backbone, manifest.head
        self._cos, self._sin = rotary_tables(manifest.max_positions, manifest.backbone)

    def _activation_limits(self) -> NDArray[np.float64]:
        """float64 [num_layers, 4]"""
        return self._tensor("activation_limits", (self._shape.num_layers, len(LINEARS)), np.float64)

    def linears(self, index: int) -> dict[str, Linear]:
        """The linears of one layer by part."""
        widths, limits = linear_shapes(self._shape), self._activation_limits()[index]
        return {
            part: self._linear(f"layers.{index}.{part}", *widths[part], limit)
            for part, limit in zip(LINEARS, limits, strict=True)
        }

    def fill_layer(self, layer: Layer, index: int, linears: Mapping[str, Linear]) -> None:
        shape, name = self._shape, f"layers.{index}"
        for part, linear in linears.items():
            setattr(layer, part, linear)
        layer.attention_norm = self._floats(f"{name}.attention_norm", shape.hidden_size)
        layer.mlp_norm = self._floats(f"{name}.mlp_norm", shape.hidden_size)
        if shape.qk_norm:
            layer.query_norm = self._floats(f"{name}.query_norm", shape.head_dim)
            layer.key_norm = self._floats(f"{name}.key_norm", shape.head_dim)

    def model(
        self, layers: ctypes.Array[Layer], *, has_embedding: bool = True, has_head: bool = True
    ) -> Model:
        """All of a model, or a piece of it, with ``layers``, which must outlive it."""
        shape, head = self._shape, self._head
        model = Model(
            num_layers=len(layers),
            hidden=shape.hidden_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            inner=self._inner(),
            num_labels=head.num_labels,
            head_inner=shape.hidden_size if head.kind == "mlp_relu" else 0,
            eps=shape.rms_norm_eps,
            cos=self._cos.ctypes.data,
            sin=self._sin.ctypes.data,
            layers=ctypes.cast(layers, ctypes.POINTER(Layer)),
        )
        if has_embedding:
            self._fill_embedding(model)
        if has_head:
            self._fill_head(model)
        return model

    def _inner(self) -> int:
        return padded_inner(self._shape)

    def _fill_embedding(self, model: Model) -> None:
        size = self._shape.vocab_size
        table = self._tensor("embedding", (size, self._shape.hidden_size), np.int16)
        model.embedding = table.ctypes.data
        model.embedding_scale = self._floats("embedding_scale", size)

    def _fill_head(self, model: Model) -> None:
        size, num_labels = self._shape.hidden_size, self._head.num_labels
        deep = self._head.kind == "mlp_relu"
        model.final_norm = self._floats("final_norm", size)
        model.head_weight = self._floats("head.0.weight", size if deep else num_labels, size)
        model.head_bias = self._optional("head.0.bias", size if deep else num_labels)
        if deep:
            model.head_weight2 = self._floats("head.1.weight", num_labels, size)
            model.head_bias2 = self._optional("head.1.bias", num_labels)

    def _linear(self, name: str, depth: int, width: int, limit: float) -> Linear:
        panels = self._tensors.get(f"{name}.panels")
        bits = 8 if panels is not None and panels.dtype == np.int8 else 16
        count = 32 // bits  # weights of a column that are stored together
        panels = self._tensor(
            f"{name}.panels",
            (width // PANEL, depth // count, PANEL, count),
            np.int8 if bits == 8 else np.int16,
        )
        linear = Linear(
            depth=depth,
            width=width,
            bits=bits,
            panels=panels.ctypes.data,
            scales=self._floats(f"{name}.scales", width),
            bias=self._optional(f"{name}.bias", width),
            sums=self._tensor(f"{name}.sums", (width,), np.int32).ctypes.data
            if bits == 8
            else None,
            activation_limit=float(limit),
        )
        self._check_weights(linear, f"{name} of {self._path}")
        return linear

    def _check_weights(self, linear: Linear, name: str) -> None:
        found = int(self._library.rfprm_examine(ctypes.byref(linear)))
        if linear.bits == 16:
            check_input_limit(linear.activation_limit, found, linear.depth, name)
        elif found:
            raise ArtifactError(
                f"{name} has {found} wrong sums of its columns' weights; export the model again"
            )

    def _optional(self, name: str, *shape: int) -> int | None:
        return self._floats(name, *shape) if name in self._tensors else None

    def _floats(self, name: str, *shape: int) -> int:
        tensor = self._tensor(name, shape, np.float32)
        check_finite_tensor(name, tensor, self._path)
        return tensor.ctypes.data

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            found = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise ArtifactError(
                f"{self._path} holds {found} as {name!r}, expected {np.dtype(dtype)} {shape}; "
                "it belongs to another manifest: export the model again"
            )
        return tensor


class Float32Filler(StructureFiller):
    """The same over :class:`~rfprm_runtime.backends.native.float32_weights.Float32Weights`."""

    def linears(self, index: int) -> dict[str, Linear]:
        shape = self._shape
        queries, inner = shape.num_heads * shape.head_dim, shape.intermediate_size
        keys, hidden = shape.num_kv_heads * shape.head_dim, shape.hidden_size
        sizes = {
            "qkv": (hidden, queries + 2 * keys),
            "output": (queries, hidden),
            "gate_up": (hidden, 2 * inner),
            "down": (inner, hidden),
        }
        return {part: self._matrix(f"layers.{index}.{part}", *sizes[part]) for part in LINEARS}

    def _inner(self) -> int:
        return self._shape.intermediate_size

    def _fill_embedding(self, model: Model) -> None:
        model.embedding = self._floats("embedding", self._shape.vocab_size, self._shape.hidden_size)

    def _matrix(self, name: str, depth: int, width: int) -> Linear:
        linear = Linear(
            depth=depth,
            width=width,
            bits=32,
            panels=self._tensor(f"{name}.weight", (depth, width), np.float32).ctypes.data,
            bias=self._optional(f"{name}.bias", width),
        )
        if self._library.rfprm_examine(ctypes.byref(linear)):
            raise not_finite(f"{name}.weight", self._path)
        return linear
