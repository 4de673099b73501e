"""Writes the model file of the native kernels, a tensor at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.aligned_file import Planned, in_memory, write_aligned
from rfprm_export.panels import joined_linear, linear_panels, padded_bias, units_of_rows
from rfprm_export.stored_weights import Weights
from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.backends.native.limits import LINEARS, PANEL, check_shape, linear_shapes
from rfprm_runtime.backends.native.model_file import LAYOUT
from rfprm_runtime.ground.progress import Step

_LARGEST_INT16 = 32767
_ROWS_AT_ONCE = 8192


def write_native(
    path: Path,
    shape: Backbone,
    head: Head,
    weights: Weights,
    *,
    in_8_bits: Collection[str] = (),
    step: Step = lambda done, total: None,
) -> Path:
    """Write the model to ``path``, under the names of
    :mod:`rfprm_runtime.backends.native.model_file`.

    The linears in ``in_8_bits`` get 8 bits, the others 16. ``step`` is called with the tensors
    written and their number. Raises :class:`ExportError` for a shape
    that the kernels do not support.
    """
    check_shape(shape, refusal=ExportError)
    file = _NativeFile(shape, head, weights, in_8_bits)
    write_aligned(path, file.tensors(), {"layout": LAYOUT}, step)
    return path


class _NativeFile:
    """Panels and embedding first, then what comes of making them, and what is small anyway."""

    def __init__(
        self, shape: Backbone, head: Head, weights: Weights, in_8_bits: Collection[str]
    ) -> None:
        self._shape, self._head, self._weights = shape, head, weights
        self._in_8_bits = in_8_bits
        self._sizes = linear_shapes(shape)
        self._limits = np.zeros((shape.num_layers, len(LINEARS)))
        self._made: dict[str, NDArray[Any]] = {}

    def tensors(self) -> Iterator[Planned]:
        for index in range(self._shape.num_layers):
            for part in LINEARS:
                yield self._panels(index, part)
        vocabulary, hidden = self._shape.vocab_size, self._shape.hidden_size
        yield Planned("embedding", (vocabulary, hidden), np.int16, self._embedding)
        yield Planned("activation_limits", self._limits.shape, np.float64, lambda: self._limits)
        for index in range(self._shape.num_layers):
            yield from self._small_of_layer(index)
        yield self._later("embedding_scale", (vocabulary,))
        yield from in_memory(self._of_the_end())

    def _panels(self, index: int, part: str) -> Planned:
        depth, width = self._sizes[part]
        name = f"layers.{index}.{part}"
        bits, group = (8, 4) if name in self._in_8_bits else (16, 2)

        def make() -> NDArray[Any]:
            layer = f"model.layers.{index}"
            matrix, bias = joined_linear(self._weights, layer, part, self._shape)
            linear = linear_panels(matrix, depth, width, bits=bits)
            self._limits[index, LINEARS.index(part)] = linear.limit
            self._made[f"{name}.scales"] = linear.scales
            if linear.sums is not None:
                self._made[f"{name}.sums"] = linear.sums
            if bias is not None:
                self._made[f"{name}.bias"] = padded_bias(bias, width)
            return linear.panels

        panels = (width // PANEL, depth // group, PANEL, group)
        return Planned(f"{name}.panels", panels, np.int8 if bits == 8 else np.int16, make)

    def _small_of_layer(self, index: int) -> Iterator[Planned]:
        source, name = f"model.layers.{index}", f"layers.{index}"
        norms = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        if self._shape.qk_norm:
            norms |= {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
        yield from in_memory(
            {f"{name}.{own}": self._weights[f"{source}.{its}.weight"] for own, its in norms.items()}
        )
        for part in LINEARS:
            width = (self._sizes[part][1],)
            yield self._later(f"{name}.{part}.scales", width)
            if f"{name}.{part}" in self._in_8_bits:
                yield self._later(f"{name}.{part}.sums", width, np.int32)
            if self._has_bias(part):
                yield self._later(f"{name}.{part}.bias", width)

    def _later(
        self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32
    ) -> Planned:
        """What the making of an earlier tensor leaves."""
        return Planned(name, shape, dtype, lambda: self._made.pop(name))

    def _has_bias(self, part: str) -> bool:
        shape = self._shape
        return {"qkv": shape.qkv_bias, "output": shape.output_bias}.get(part, shape.mlp_bias)

    def _embedding(self) -> NDArray[np.int16]:
        table = self._weights["model.embed_tokens.weight"]
        units, whole = units_of_rows(table, _LARGEST_INT16), np.empty(table.shape, np.int16)
        for begin in range(0, len(table), _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            whole[rows] = np.rint(table[rows] / units[rows, None])
        self._made["embedding_scale"] = units
        return whole

    def _of_the_end(self) -> dict[str, NDArray[np.float32]]:
        found = {"final_norm": self._weights["model.norm.weight"]}
        heads = ["score"] if self._head.kind == "linear" else ["score.0", "score.2"]
        for number, part in enumerate(heads):
            found[f"head.{number}.weight"] = self._weights[f"{part}.weight"]
            if f"{part}.bias" in self._weights:
                found[f"head.{number}.bias"] = self._weights[f"{part}.bias"]
        return found
