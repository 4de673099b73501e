"""The weights as the kernels read them, checked before they do.

Those of integers are in ``model.native.safetensors``, a safetensors file (8 bytes of header length,
a JSON header, the tensors), so any tool can look inside. ``rfprm_export.panels`` writes the
tensors; the metadata names their layout. Those of float32 are in the files of other backends:
:mod:`~rfprm_runtime.backends.native.float32_weights`. What the kernels assume is in
:mod:`~rfprm_runtime.backends.native.limits`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from pathlib import Path

from rfprm_runtime.artifact.contents import ModelFile, WatchedFile
from rfprm_runtime.artifact.manifest import TORCH_NAME, Manifest
from rfprm_runtime.artifact.tensors import read_tensors
from rfprm_runtime.backends.native.float32_weights import FLOAT32_FILES, Float32Weights
from rfprm_runtime.backends.native.library import Layer, Linear, Model, load_library
from rfprm_runtime.backends.native.limits import LINEARS, check_fits
from rfprm_runtime.backends.native.structures import Float32Filler, StructureFiller
from rfprm_runtime.errors import ArtifactError, BackendError

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
        """Read ``file`` into memory, or map it. ``library``: any variant of the kernels for the
        :func:`numbers_of` the file.

        Raises :class:`ArtifactError` if it does not hold this model, or one that the kernels do not
        support, and :class:`BackendError` for a torch file that is to be mapped.
        """
        opened = ModelFile.of(file)
        numbers = numbers_of(opened)
        check_fits(manifest.backbone, manifest.max_positions, numbers=numbers)
        self._library = library or load_library(numbers=numbers)[1]
        self._watched: WatchedFile | Float32Weights | None = None
        open_filler = self._open_float32 if numbers == "float32" else self._open_integers
        self._filler = open_filler(opened, manifest, map_weights)
        self.structure = self._build(manifest)
        self.check_unchanged()

    def _open_integers(
        self, file: ModelFile, manifest: Manifest, map_weights: bool
    ) -> StructureFiller:
        watched = file.watch() if map_weights else None
        content = file.read() if watched is None else watched.map()
        content.flags.writeable = False
        self._tensors, metadata = read_tensors(content, file.path)
        check_layout(metadata, file.path)
        self._watched = watched
        return StructureFiller(self._tensors, manifest, file.path, self._library)

    def _open_float32(
        self, file: ModelFile, manifest: Manifest, map_weights: bool
    ) -> StructureFiller:
        if map_weights and file.name == TORCH_NAME:
            raise BackendError(
                f"the native kernels cannot map {file.path}, whose matrices they turn around when "
                "they read them; leave map_weights out, or export with --format onnx"
            )
        weights = Float32Weights(file, manifest, "map" if map_weights else "read")
        self._watched = weights if map_weights else None
        self._tensors = weights.read(weights)
        return Float32Filler(self._tensors, manifest, file.path, self._library)

    def check_unchanged(self) -> None:
        """Raises :class:`ArtifactError` if the file is mapped and was changed. Costs microseconds;
        nothing if it was read."""
        if self._watched is not None:
            self._watched.check()

    def _build(self, manifest: Manifest) -> Model:
        filler = self._filler  # it holds what the structures point into
        self._layers = (Layer * manifest.backbone.num_layers)()
        self._own: list[dict[str, Linear]] = []
        for index, layer in enumerate(self._layers):
            linears = filler.linears(index)
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


def numbers_of(file: ModelFile) -> str:
    """The kind of numbers (:data:`~rfprm_runtime.backends.native.variants.NUMBERS`) of the kernels
    that run a model file."""
    return "float32" if file.name in FLOAT32_FILES else "int16"


def check_layout(metadata: Mapping[str, str], path: Path) -> None:
    """Raises :class:`ArtifactError` if the tensors of a file are laid out for other kernels."""
    if metadata.get("layout") != LAYOUT:
        raise ArtifactError(
            f"{path} has layout {metadata.get('layout')!r}, expected {LAYOUT!r}; export the "
            "model again"
        )
