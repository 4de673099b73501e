"""Tensors of a safetensors file: 8 bytes of header length, a JSON header, the data.

Knows the layout of the file and trusts nothing in it; knows no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    try:
        header, data = _split(content, path)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise _MalformedError(f"__metadata__ is {type(metadata).__name__}, expected an object")
        return {name: _tensor(name, entry, data) for name, entry in header.items()}, metadata
    except (_MalformedError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read as safetensors ({error}); export the artifact again"
        ) from None


def _split(content: NDArray[np.uint8], path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    size = int.from_bytes(content[:8].tobytes(), "little")
    if len(content) < 8 or size > min(len(content) - 8, _MAX_HEADER_BYTES):
        raise _MalformedError(f"{len(content)} bytes hold no header of {size}")
    header = parse_json(
        content[8 : 8 + size].tobytes(),
        name=f"the header of {path}",
        refusal=ArtifactError,
        way_out="export the artifact again",
        max_bytes=_MAX_HEADER_BYTES,
    )
    if not isinstance(header, dict):
        raise _MalformedError(f"the header is {type(header).__name__}, expected an object")
    return header, content[8 + size :]


def _tensor(name: str, entry: Any, data: NDArray[np.uint8]) -> NDArray[Any]:
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
    if not first <= last <= len(data) or last - first != count * kind.itemsize:
        raise _MalformedError(
            f"{name!r} of {count} numbers lies from {first} to {last} of {len(data)} bytes"
        )
    part = data[first:last]
    if part.ctypes.data % kind.itemsize:
        part = part.copy()
    return part.view(kind).reshape(shape)


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
        raise ArtifactError(
            f"{path} holds numbers that are not finite as {name!r}; it is damaged: export the "
            "model again"
        )
