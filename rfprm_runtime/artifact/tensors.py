"""Tensors of a safetensors file: 8 bytes of header length, a JSON header, the data.

Knows the layout of the file and trusts nothing in it; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.strict_json import parse_json

_MAX_HEADER_BYTES = 100_000_000
"""As in the safetensors library."""
_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


class _MalformedError(ArtifactError):
    """What is wrong with the header."""


def read_tensors(
    content: NDArray[np.uint8], path: Path
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors by name, as aligned views of ``content`` (a copy if the file does not align one), and
    the metadata. ``path`` is for the errors.

    Raises :class:`ArtifactError` if the content is not what its header says.
    """
    size = _header_bytes(content[:8], len(content), path)
    places, metadata = _places(content[8 : 8 + size], len(content) - 8 - size, path)
    data = content[8 + size :]
    tensors = {n: place.view(data[place.first : place.last], path) for n, place in places.items()}
    return tensors, metadata


class LazyTensors(Mapping[str, NDArray[Any]]):
    """Tensors that are read when they are asked for. A subclass keeps what it knows of each in
    ``_known``."""

    _known: Mapping[str, Any]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known  # a Mapping would read it

    def read(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Those of ``names`` that are there."""
        return {name: self[name] for name in names if name in self}

    def under(self, *prefixes: str) -> list[str]:
        """The names that begin with one of ``prefixes``."""
        return [name for name in self if name.startswith(prefixes)]


class TensorFile(LazyTensors):
    """The tensors of a file that stay there: each is read anew, into memory of this process, when
    it is asked for. Iterating over names, ``len`` and ``in`` read nothing."""

    def __init__(self, file: ModelFile) -> None:
        """Raises :class:`ArtifactError` if the file is not what its record says, or no such file.
        So does reading, once it was changed."""
        self.path, self._file = file.path, file.watch()
        num_bytes = self._file.num_bytes
        size = _header_bytes(self._file.read(0, min(8, num_bytes)), num_bytes, self.path)
        self._begin = 8 + size
        self._known, self.metadata = _places(
            self._file.read(8, self._begin), num_bytes - self._begin, self.path
        )

    def __getitem__(self, name: str) -> NDArray[Any]:
        place: _Place = self._known[name]
        content = self._file.read(self._begin + place.first, self._begin + place.last)
        return place.view(content, self.path)


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the data, and what it is."""

    dtype: np.dtype[Any]
    shape: list[int]
    first: int
    last: int

    def view(self, content: NDArray[np.uint8], path: Path) -> NDArray[Any]:
        if content.ctypes.data % self.dtype.itemsize:
            content = content.copy()
        try:
            return content.view(self.dtype).reshape(self.shape)
        except ValueError as error:  # more dimensions than numpy has
            raise _unreadable(path, error) from None


def _header_bytes(first: NDArray[np.uint8], num_bytes: int, path: Path) -> int:
    """``first``: the first 8 of ``num_bytes`` bytes."""
    size = int.from_bytes(first.tobytes(), "little")
    if num_bytes < 8 or size > min(num_bytes - 8, _MAX_HEADER_BYTES):
        raise _unreadable(path, f"{num_bytes} bytes hold no header of {size}")
    return size


def _places(
    header: NDArray[np.uint8], num_bytes: int, path: Path
) -> tuple[dict[str, _Place], dict[str, str]]:
    """Where each tensor lies in data of ``num_bytes``, and the metadata."""
    try:
        entries = parse_json(
            header.tobytes(),
            name=f"the header of {path}",
            refusal=ArtifactError,
            way_out="export the artifact again",
            max_bytes=_MAX_HEADER_BYTES,
        )
        if not isinstance(entries, dict):
            raise _MalformedError(f"the header is {type(entries).__name__}, expected an object")
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise _MalformedError(f"__metadata__ is {type(metadata).__name__}, expected an object")
        return {name: _place(name, entry, num_bytes) for name, entry in entries.items()}, metadata
    except (_MalformedError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, reason: object) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read as safetensors ({reason}); export the artifact again"
    )


def _place(name: str, entry: Any, num_bytes: int) -> _Place:
    found = entry if isinstance(entry, dict) else {}
    dtype = found.get("dtype")
    shape, offsets = (_sizes(found.get(key)) for key in ("shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _MalformedError(f"{name!r} has dtype {dtype!r}, expected one of {sorted(_DTYPES)}")
    if shape is None or offsets is None or len(offsets) != 2:
        raise _MalformedError(f"{name!r} has no shape of sizes, or not two offsets")
    first, last = offsets
    kind, count = np.dtype(_DTYPES[dtype]), 1
    for size in shape:
        count *= size
    if not first <= last <= num_bytes or last - first != count * kind.itemsize:
        raise _MalformedError(
            f"{name!r} of {count} numbers lies from {first} to {last} of {num_bytes} bytes"
        )
    return _Place(kind, shape, first, last)


def _sizes(values: Any) -> list[int] | None:
    if isinstance(values, list) and all(type(value) is int and value >= 0 for value in values):
        return values
    return None


def is_finite(tensor: NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite. Makes no array."""
    # The smallest and the largest are NaN if any number is.
    return not tensor.size or bool(np.isfinite(tensor.min()) and np.isfinite(tensor.max()))


def check_finite_tensor(name: str, tensor: NDArray[Any], path: Path) -> None:
    """Raises :class:`ArtifactError` if a number is NaN or infinite. A score would not show where it
    came from, and arithmetic may hide it."""
    if not is_finite(tensor):
        raise not_finite(name, path)


def not_finite(name: str, path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} holds numbers that are not finite as {name!r}; it is damaged: export the model "
        "again"
    )
