"""``model.native.safetensors``: the weights as the kernels read them, checked before they do.

A safetensors file (8 bytes of header length, a JSON header, the tensors), so any tool can look
inside. ``rfprm_export.panels`` writes the tensors; the metadata names their layout. What the
kernels assume is in :mod:`~rfprm_runtime.backends.native.limits`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from pathlib import Path

from rfprm_runtime.artifact.contents import ModelFile, WatchedFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.tensors import read_tensors
from rfprm_runtime.backends.native.library import Layer, Linear, Model, load_library
from rfprm_runtime.backends.native.limits import LINEARS, check_fits
from rfprm_runtime.backends.native.structures import StructureFiller
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
        check_layout(metadata, path)
        self._path = path
        self.structure = self._build(manifest)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raises :class:`ArtifactError` if the file is mapped and was changed. Costs microseconds;
        nothing if it was read."""
        if self._watched is not None:
            self._watched.check()

    def _build(self, manifest: Manifest) -> Model:
        filler = StructureFiller(self._tensors, manifest, self._path, self._library)
        self._filler = filler  # it holds tables that the structures point into
        limits = filler.activation_limits()
        self._layers = (Layer * manifest.backbone.num_layers)()
        self._own: list[dict[str, Linear]] = []
        for index, layer in enumerate(self._layers):
            linears = filler.linears(index, limits[index])
            filler.fill_layer(layer, index, linears)
            self._own.append(linears)
        return filler.model(self._layers)

    def take_linears(self, other: NativeModel, names: Collection[str]) -> None:
        """Use the linears of ``other``, the same model with other bits, for these ``names``
        (``layers.3.down``), and this model's own for the rest. Not while the model runs."""
        for index in range(self.structure.num_layers):
            for part in LINEARS:
                source = other if f"layers.{index}.{part}" in names else self
                setattr(self.structure.layers[index], part, source._own[index][part])
        self._others = other


def check_layout(metadata: Mapping[str, str], path: Path) -> None:
    """Raises :class:`ArtifactError` if the tensors of a file are laid out for other kernels."""
    if metadata.get("layout") != LAYOUT:
        raise ArtifactError(
            f"{path} has layout {metadata.get('layout')!r}, expected {LAYOUT!r}; export the "
            "model again"
        )
