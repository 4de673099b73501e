"""Reads the container of a GGUF file: its fields and its tensors' places. Knows no models.

Sources: the GGUF specification of ggml; the package ``gguf`` decodes the blocks. Every count and
length is compared with the bytes that are left before anything is read or allocated, so a file
costs no more than its size allows; the reader of that package trusts them.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.weights_files import version_of
from rfprm_runtime.ground.names import check_is_content

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_NAME_BYTES = 64 * 1024
"""The specification's limit for the name of a field."""
_MAX_DIMENSIONS = 4
_BYTES_AT_ONCE = 2**20
"""Of blocks that are decoded in one go: the package takes several times their floats."""
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class Place:
    """Where a tensor begins, in the file as it was when it was opened."""

    path: Path
    version: tuple[int, ...]
    offset: int

    def read(self, count: int) -> NDArray[np.uint8]:
        """Not mapped: pages of a map would stay in memory."""
        try:
            data = np.fromfile(self.path, np.uint8, count=count, offset=self.offset)
        except OSError as error:
            raise ExportError(f"{self.path} cannot be read: {error}") from None
        if len(data) < count or version_of(self.path) != self.version:
            raise ExportError(f"{self.path} was changed while it was read; start again")
        return data


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as it is stored, in blocks."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as numpy has it."""
    kind: gguf.GGMLQuantizationType
    place: Place
    """Of its bytes, which stay in the file."""

    def floats(self) -> NDArray[np.float32]:
        """Its values, read now. Raises :class:`ExportError` for a kind that cannot be decoded, and
        if the file was changed since it was opened."""
        rows, row_bytes = _layout(self.name, self.shape, self.kind)
        data = self.place.read(math.prod(rows) * row_bytes).reshape(-1, row_bytes)
        floats = np.empty((len(data), self.shape[-1]), np.float32)
        at_once = max(1, _BYTES_AT_ONCE // row_bytes)
        for start in range(0, len(data), at_once):
            floats[start : start + at_once] = self._decoded(data[start : start + at_once])
        return floats.reshape(self.shape)

    def _decoded(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            found: NDArray[np.float32] = gguf.quants.dequantize(rows, self.kind)
        except NotImplementedError:
            raise ExportError(
                f"tensor {self.name!r} is stored as {self.kind.name}, which cannot be decoded; "
                "give a file in Q8_0, Q4_K_M, BF16 or another common type, or the Hugging Face "
                "folder of the model"
            ) from None
        return found


@dataclass(frozen=True)
class GgufFile:
    fields: Mapping[str, Any]
    """Numbers, booleans, texts, and lists of those."""
    tensors: list[GgufTensor]


def open_gguf(path: Path) -> GgufFile:
    """Raises :class:`ExportError` if ``path`` is not a whole GGUF file in little-endian order."""
    check_is_content(path, refusal=ExportError)
    try:
        version = version_of(path)
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _Reader(content, Place(path, version, 0)).read()
    except (ExportError, OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ExportError(
            f"{path} cannot be read as GGUF: {error}; download the file again"
        ) from None


class _Reader:
    """Reads forwards; every read is checked against the end of the file."""

    def __init__(self, content: mmap.mmap, file: Place) -> None:
        self._content, self._file = content, file
        self._place = 0

    def read(self) -> GgufFile:
        if self._take(4) != _MAGIC:
            raise ExportError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in _VERSIONS:
            raise ExportError(f"it has version {version}, expected 2 or 3 in little-endian order")
        num_tensors, num_fields = self._count(24), self._count(13)
        fields: dict[str, Any] = {}
        for _ in range(num_fields):
            name = self._text(_MAX_NAME_BYTES)
            if name in fields:
                raise ExportError(f"it has the field {name[:80]!r} twice")
            fields[name] = self._value(self._number("<I"))
        infos = [self._tensor_info() for _ in range(num_tensors)]
        return GgufFile(fields, self._tensors(infos, _alignment(fields)))

    def _take(self, count: int) -> bytes:
        stop = self._place + count
        if stop > len(self._content):
            raise ExportError(f"{count} bytes were expected at byte {self._place}, where it ends")
        taken = self._content[self._place : stop]
        self._place = stop
        return taken

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _count(self, least_bytes: int) -> int:
        """A number of items of at least ``least_bytes`` each, which must fit into the rest."""
        count = self._number("<Q")
        if count * least_bytes > len(self._content) - self._place:
            raise ExportError(f"{count} items were promised at byte {self._place}, more than fit")
        return count

    def _text(self, max_bytes: int | None = None) -> str:
        count = self._count(1)
        if max_bytes is not None and count > max_bytes:
            raise ExportError(f"a name has {count} bytes, the limit is {max_bytes}")
        return self._take(count).decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            return np.frombuffer(self._take(dtype.itemsize), dtype).tolist()[0]
        if kind == _ARRAY:
            return self._array(self._number("<I"))
        raise ExportError(f"byte {self._place} follows the unknown type {kind}")

    def _array(self, kind: int) -> list[Any]:
        if kind == _STRING:
            return [self._text() for _ in range(self._count(8))]
        if kind not in _SCALARS:  # lists of lists too, which no model has
            raise ExportError(f"byte {self._place} begins a list of the unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        count = self._count(dtype.itemsize)
        values: list[Any] = np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()
        return values

    def _tensor_info(self) -> tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]:
        name = self._text(_MAX_NAME_BYTES)
        num_dimensions = self._number("<I")
        if not 0 < num_dimensions <= _MAX_DIMENSIONS:
            raise ExportError(f"tensor {name[:80]!r} has {num_dimensions} dimensions")
        sizes = struct.unpack(f"<{num_dimensions}Q", self._take(8 * num_dimensions))
        return name, sizes[::-1], self._kind(name), self._number("<Q")

    def _kind(self, name: str) -> gguf.GGMLQuantizationType:
        number = self._number("<I")
        try:
            return gguf.GGMLQuantizationType(number)
        except ValueError:
            raise ExportError(
                f"tensor {name[:80]!r} is stored as type {number}, which is unknown"
            ) from None

    def _tensors(
        self,
        infos: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]],
        alignment: int,
    ) -> list[GgufTensor]:
        start = -(-self._place // alignment) * alignment
        names, stop = set(), start
        found = []
        # Where two tensors share bytes, a small file becomes a large model.
        for name, shape, kind, offset in sorted(infos, key=lambda info: info[3]):
            rows, row_bytes = _layout(name, shape, kind)
            begin, size = start + offset, math.prod(rows) * row_bytes
            end = begin + size
            if name in names or begin < stop or offset % alignment or end > len(self._content):
                raise ExportError(
                    f"tensor {name[:80]!r} is there twice, or its {size} bytes from {begin} on are "
                    "not its own"
                )
            names.add(name)
            stop = end
            found.append(GgufTensor(name, shape, kind, replace(self._file, offset=begin)))
        return found


def _layout(
    name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType
) -> tuple[tuple[int, ...], int]:
    """The dimensions before the last, and how many bytes that one takes."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise ExportError(f"tensor {name[:80]!r} of shape {shape} is not whole blocks of {block}")
    return shape[:-1], shape[-1] // block * block_bytes


def _alignment(fields: Mapping[str, Any]) -> int:
    value = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or value not in {1 << power for power in range(21)}:
        raise ExportError(f"its alignment is {str(value)[:80]}, expected a power of two up to 2^20")
    return value
