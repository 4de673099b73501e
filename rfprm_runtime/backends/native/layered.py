"""The native kernels a layer at a time, for models larger than the memory.

All rows of a batch go through one layer after another, so only that layer's weights are in memory,
beside the rows. The bits are those of the whole model.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.tensors import TensorFile
from rfprm_runtime.backends.native.backend import PASS_TOKENS, Pass, checked
from rfprm_runtime.backends.native.float32_weights import Float32Weights
from rfprm_runtime.backends.native.library import Layer, Model, load_library
from rfprm_runtime.backends.native.limits import LINEARS, check_fits
from rfprm_runtime.backends.native.model_file import check_layout, numbers_of
from rfprm_runtime.backends.native.pages import PageAllocator, Workspace
from rfprm_runtime.backends.native.structures import Float32Filler, StructureFiller
from rfprm_runtime.backends.native.variants import build_name
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.engine.rows import ALL_ROWS_AT_ONCE, Extension, TokenBatch, rows_of

_EMBEDDING = ("embedding", "embedding_scale")
_HEAD = ("final_norm", "head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias")


@dataclass
class _Rows:
    """Traces that go through the layers together."""

    items: list[Extension]
    hidden: NDArray[np.float32]
    """[tokens, hidden_size], what the layers so far made of them."""


@dataclass(frozen=True)
class _Beginning:
    """What the layers before ``index``, in this model's own bits, made of a batch."""

    token_ids: NDArray[np.int64]
    index: int
    hidden: list[NDArray[np.float32]]


class LayeredNative:
    """Runs what :class:`~rfprm_runtime.backends.native.backend.NativeBackend` runs, all rows of a
    call at once."""

    limits = ALL_ROWS_AT_ONCE

    def __init__(
        self,
        file: ModelFile,
        manifest: Manifest,
        *,
        walk: Walk | None = None,
        kernels: str | None = None,
    ) -> None:
        """``kernels``: as for :class:`~rfprm_runtime.backends.native.backend.NativeBackend`.

        Raises what that class raises, for the weights when they are read.
        """
        numbers = numbers_of(file)
        check_fits(manifest.backbone, manifest.max_positions, numbers=numbers)
        name, self._library = load_library(kernels, numbers)
        self._threads = usable_cores(None)
        self._manifest, self.walk = manifest, walk or Walk()
        self._file = self._other = _opened(file, manifest)
        self._in_other: frozenset[str] = frozenset()
        self._first_other = 0
        self._beginning: _Beginning | None = None
        self._filler = Float32Filler if numbers == "float32" else StructureFiller
        kernels = build_name(name, numbers)
        self.description = f"native {kernels} kernels, {self._threads} thread(s), a layer at a time"

    def take_linears(self, other: ModelFile, names: Collection[str]) -> None:
        """Use the linears of ``other``, the same model with other bits, for these ``names``
        (``layers.3.down``), and this model's own for the rest. Not while the model runs.

        Runs of one batch with other linears in later and later layers begin where those of the run
        before began: what comes before is the same."""
        self._other, self._in_other = TensorFile(other), frozenset(names)
        layers = (int(name.split(".")[1]) for name in self._in_other)
        self._first_other = min(layers, default=self._manifest.backbone.num_layers)

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        groups = [_Rows(items, self._no_rows(items)) for items in self._passes(batch)]
        count = self._manifest.backbone.num_layers
        logits: list[NDArray[np.float32]] = []
        begin = self._begin(batch, groups)
        with ThreadPoolExecutor(self._threads) as pool:
            for index in range(begin, count):
                if begin < index == self._first_other:
                    hidden = [rows.hidden.copy() for rows in groups]
                    self._beginning = _Beginning(batch.token_ids, index, hidden)
                piece = _Piece(self, index)
                try:
                    logits = list(pool.map(piece.run, groups))
                    self.walk.reached(index + 1, count)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        return np.concatenate(logits)

    def _begin(self, batch: TokenBatch, groups: Sequence[_Rows]) -> int:
        """The layer to begin with, and in ``groups`` what it begins with."""
        known = self._beginning
        if known is None or known.index > self._first_other:
            return 0
        if not np.array_equal(known.token_ids, batch.token_ids):
            return 0
        for rows, hidden in zip(groups, known.hidden, strict=True):
            rows.hidden[:] = hidden
        return known.index

    def _passes(self, batch: TokenBatch) -> Iterator[list[Extension]]:
        """The rows, checked, as many at once as make the weights cheap."""
        items: list[Extension] = []
        for row in rows_of(batch):
            item = checked(Extension(row.token_ids, row.marker_positions), self._manifest)
            if items and _num_tokens([*items, item]) > PASS_TOKENS:
                yield items
                items = []
            items.append(item)
        yield items

    def _no_rows(self, items: Sequence[Extension]) -> NDArray[np.float32]:
        return np.empty((_num_tokens(items), self._manifest.backbone.hidden_size), np.float32)

    def tensors_of(self, index: int) -> dict[str, NDArray[Any]]:
        """What layer ``index`` needs, in memory of this process: the first also embeds, the last
        reads the head."""
        names = ["activation_limits", *self._file.under(f"layers.{index}.")]
        names += _EMBEDDING if index == 0 else ()
        names += _HEAD if index == self._manifest.backbone.num_layers - 1 else ()
        found = self._file.read(names)
        for part in LINEARS:
            name = f"layers.{index}.{part}"
            if name in self._in_other:
                found |= self._other.read(self._other.under(f"{name}."))
        return found

    def close(self) -> None:
        pass  # between runs it holds no weights


def _opened(file: ModelFile, manifest: Manifest) -> TensorFile | Float32Weights:
    if numbers_of(file) == "float32":
        return Float32Weights(file, manifest, "stay")
    opened = TensorFile(file)
    check_layout(opened.metadata, opened.path)
    return opened


class _Piece:
    """One layer, with the embedding if it is the first and the head if it is the last."""

    def __init__(self, backend: LayeredNative, index: int) -> None:
        manifest, library = backend._manifest, backend._library
        self._is_first = index == 0
        self._is_last = index == manifest.backbone.num_layers - 1
        self._tensors = backend.tensors_of(index)
        self._filler = backend._filler(self._tensors, manifest, backend._file.path, library)
        self._layers = (Layer * 1)()
        linears = self._filler.linears(index)
        self._filler.fill_layer(self._layers[0], index, linears)
        self._model: Model = self._filler.model(
            self._layers, has_embedding=self._is_first, has_head=self._is_last
        )
        self._library, self._num_labels = library, manifest.head.num_labels
        self._walk = backend.walk
        self._pages = PageAllocator(
            int(library.rfprm_page_positions()),
            int(library.rfprm_page_bytes(ctypes.byref(self._model))),
            num_layers=1,
        )

    def run(self, rows: _Rows) -> NDArray[np.float32]:
        """Logits after the last layer; before that they mean nothing."""
        self._walk.check()
        work = Workspace()
        tables, _ = self._pages.lay_out(rows.items, work, keep_layers=False)
        one = Pass(self._library, self._model, work, keep_layers=False)
        return one.together(
            rows.items,
            tables,
            self._num_labels,
            None if self._is_first else rows.hidden,
            None if self._is_last else rows.hidden,
        )


def _num_tokens(items: Sequence[Extension]) -> int:
    return sum(len(item.token_ids) for item in items)
