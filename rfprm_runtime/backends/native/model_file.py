"""``model.native.safetensors``: the weights as the kernels read them, checked before they do.

A safetensors file (8 bytes of header length, a JSON header, the tensors), so any tool can look
inside. ``rfprm_export.panels`` writes the tensors; the metadata names their layout. What the
kernels assume is in :mod:`~rfprm_runtime.backends.native.limits`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import ModelFile, WatchedFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.tensors import check_finite_tensor, read_tensors
from rfprm_runtime.backends.native.library import Layer, Linear, Model, load_library
from rfprm_runtime.backends.native.limits import (
    LINEARS,
    PANEL,
    check_fits,
    check_input_limit,
    linear_shapes,
    padded_inner,
)
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.errors import ArtifactError

LAYOUT = "rfprm-native-2"


class NativeModel:
    """The structure that the kernels take, and the memory it points into."""

    def __init__(
        self,
        file: Path | ModelFile,
        manifest: Manifest,
        *,
        map_weights: bool = False,
        library: ctypes.CDLL | None = None,
    ) -> None:
        """Read ``file`` into memory, or map it. ``library``: any variant of the kernels.

        Raises :class:`ArtifactError` if it does not hold this model, or one that the kernels do not
        support.
        """
        check_fits(manifest.backbone, manifest.max_positions)
        self._library = library or load_library()[1]
        opened = ModelFile.of(file)
        path = opened.path
        self._watched: WatchedFile | None = opened.watch() if map_weights else None
        content = opened.read() if self._watched is None else self._watched.map()
        content.flags.writeable = False
        self._tensors, metadata = read_tensors(content, path)
        if metadata.get("layout") != LAYOUT:
            raise ArtifactError(
                f"{path} has layout {metadata.get('layout')!r}, expected {LAYOUT!r}; export the "
                "model again"
            )
        self._path = path
        self.structure = self._build(manifest)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raises :class:`ArtifactError` if the file is mapped and was changed. Costs microseconds;
        nothing if it was read."""
        if self._watched is not None:
            self._watched.check()

    def _build(self, manifest: Manifest) -> Model:
        shape, head = manifest.backbone, manifest.head
        limits = self._tensor("activation_limits", (shape.num_layers, len(LINEARS)), np.float64)
        widths = linear_shapes(shape)
        layers = (Layer * shape.num_layers)()
        self._own: list[dict[str, Linear]] = []
        for index in range(shape.num_layers):
            layer, name = layers[index], f"layers.{index}"
            linears = {
                part: self._linear(f"{name}.{part}", *widths[part], limits[index, number])
                for number, part in enumerate(LINEARS)
            }
            for part, linear in linears.items():
                setattr(layer, part, linear)
            self._own.append(linears)
            layer.attention_norm = self._floats(f"{name}.attention_norm", shape.hidden_size)
            layer.mlp_norm = self._floats(f"{name}.mlp_norm", shape.hidden_size)
            if shape.qk_norm:
                layer.query_norm = self._floats(f"{name}.query_norm", shape.head_dim)
                layer.key_norm = self._floats(f"{name}.key_norm", shape.head_dim)
        self._layers = layers
        self._cos, self._sin = rotary_tables(manifest.max_positions, shape)
        deep = head.kind == "mlp_relu"
        size = shape.hidden_size
        embedding = self._tensor("embedding", (shape.vocab_size, size), np.int16)
        return Model(
            num_layers=shape.num_layers,
            hidden=size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            inner=padded_inner(shape),
            num_labels=head.num_labels,
            head_inner=size if deep else 0,
            eps=shape.rms_norm_eps,
            embedding=embedding.ctypes.data,
            embedding_scale=self._floats("embedding_scale", shape.vocab_size),
            cos=self._cos.ctypes.data,
            sin=self._sin.ctypes.data,
            final_norm=self._floats("final_norm", size),
            head_weight=self._floats("head.0.weight", size if deep else head.num_labels, size),
            head_bias=self._optional("head.0.bias", size if deep else head.num_labels),
            head_weight2=self._floats("head.1.weight", head.num_labels, size) if deep else None,
            head_bias2=self._optional("head.1.bias", head.num_labels) if deep else None,
            layers=ctypes.cast(layers, ctypes.POINTER(Layer)),
        )

    def take_linears(self, other: NativeModel, names: Collection[str]) -> None:
        """Use the linears of ``other``, the same model with other bits, for these ``names``
        (``layers.3.down``), and this model's own for the rest. Not while the model runs."""
        for index in range(self.structure.num_layers):
            for part in LINEARS:
                source = other if f"layers.{index}.{part}" in names else self
                setattr(self.structure.layers[index], part, source._own[index][part])
        self._others = other

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
