"""Reads the tensors of a file that ``torch.save`` wrote, without torch and without running it.

Such a file is a zip archive: a pickle describes the tensors, and their numbers stand beside it. A
pickle is a program; this one may call what is in :data:`_ALLOWED` and nothing else, and what it
calls only takes notes. The notes are tuples, because a pickle may change any other object that it
has made. Source of the format: PyTorch's ``torch/serialization.py``.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.weights_files import as_float32, version_of

_MAX_PICKLE_BYTES = 64 * 2**20
_MAX_DIMENSIONS = 8
_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    # Buffers of numbers that no network here reads.
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
}


class _Storage(NamedTuple):
    """Numbers in a member of the archive."""

    key: str
    kind: str
    """A key of :data:`_DTYPES`."""
    num_numbers: int


class _Tensor(NamedTuple):
    """A view of a storage, in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def open_pickled(path: Path) -> StoredWeights:
    """Every tensor of a ``.bin`` or ``.pt`` file, to be read as float32 when it is asked for.

    Raises :class:`ExportError`, now or when a tensor is read: the file is of the format before
    PyTorch 1.6, damaged, changed, compressed, holds anything but tensors by their names, or calls
    something else.
    """
    version = version_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member for member in archive.infolist()}
            root = _root(members)
            pickled = members[f"{root}data.pkl"]
            if pickled.compress_type != zipfile.ZIP_STORED or pickled.file_size > _MAX_PICKLE_BYTES:
                raise _UnreadableError("its data.pkl is compressed, or larger than 64 MiB")
            if members.get(f"{root}byteorder") and archive.read(f"{root}byteorder") != b"little":
                raise _UnreadableError("its numbers are not in little-endian order")
            content = _Reader(io.BytesIO(archive.read(pickled))).load()
    except ExportError as error:
        raise error.at(str(path)) from None
    except Exception as error:  # whatever a damaged archive or pickle raises
        raise ExportError(
            f"{path} cannot be read as a file of torch.save: {error}; download the model again, or "
            "save it with a newer PyTorch"
        ) from None
    tensors = _tensors_of(content, path)
    return StoredWeights(
        {
            name: Stored(tensor.shape, _reader(path, version, root, name, tensor))
            for name, tensor in tensors.items()
        }
    )


class _UnreadableError(ExportError):
    """What is wrong with the file."""


def _root(members: dict[str, zipfile.ZipInfo]) -> str:
    """The folder in the archive that holds everything."""
    found = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1 or found[0].count("/") != 1:
        raise _UnreadableError("there is no FOLDER/data.pkl in it, so torch.save did not write it")
    return found[0].removesuffix("data.pkl")


def _rebuild_tensor(
    storage: object, offset: object, shape: object, strides: object, *_: object
) -> _Tensor:
    """``torch._utils._rebuild_tensor_v2``, as a note. The rest are gradients and hooks."""
    numbers = [offset, *_as_tuple(shape), *_as_tuple(strides)]
    if not isinstance(storage, _Storage) or not all(
        type(number) is int and 0 <= number < 2**62 for number in numbers
    ):
        raise _UnreadableError("a tensor is described by something else than a storage and numbers")
    tensor = _Tensor(storage, numbers[0], _as_tuple(shape), _as_tuple(strides))
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > _MAX_DIMENSIONS:
        raise _UnreadableError(f"a tensor has the shape {tensor.shape} and other strides")
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    is_empty = 0 in tensor.shape
    # Steps of 0 repeat a number, and would make a huge array of a small file.
    if not is_empty and (
        tensor.offset + last >= storage.num_numbers or math.prod(tensor.shape) > storage.num_numbers
    ):
        raise _UnreadableError(f"a tensor of shape {tensor.shape} is larger than its storage")
    return tensor


def _rebuild_parameter(tensor: object, *_: object) -> object:
    """``torch._utils._rebuild_parameter``: a tensor with a gradient."""
    return tensor


def _ordered(*pairs: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(*pairs)


def _as_tuple(value: object) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (None,)


_ALLOWED: dict[tuple[str, str], Callable[..., object] | str] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("collections", "OrderedDict"): _ordered,
    **{("torch", name): name for name in _DTYPES},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What the pickle may call."""
        found = _ALLOWED.get((module, name))
        if found is None:
            raise _UnreadableError(
                f"it calls {module[:60]}.{name[:60]}, which no file of tensors needs; weights are "
                "data, and this file is a program. Do not load it elsewhere either"
            )
        return found

    def persistent_load(self, identity: Any) -> _Storage:
        """A storage, by the kind, the name and the number of its numbers."""
        what, kind, key, _, count = identity
        if what != "storage" or not isinstance(kind, str) or kind not in _DTYPES:
            raise _UnreadableError(f"it refers to a {str(what)[:40]}, expected a storage")
        if not isinstance(key, str) or not key.isalnum() or type(count) is not int or count < 0:
            raise _UnreadableError("a storage has no name and size")
        return _Storage(key, kind, count)


def _tensors_of(content: object, path: Path) -> dict[str, _Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ExportError(f"{path} holds {type(content).__name__}, expected tensors by their names")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise ExportError(
                f"{path} holds {str(name)[:80]!r}, which is no tensor; save the state_dict alone"
            )
    return dict(content)


def _reader(
    path: Path, version: tuple[int, ...], root: str, name: str, tensor: _Tensor
) -> Callable[[], NDArray[np.float32]]:
    def read() -> NDArray[np.float32]:
        if version_of(path) != version:
            raise ExportError(f"{path} was changed while it was read; start again")
        try:
            return as_float32(_array(path, root, tensor), name)
        except ExportError as error:
            raise error.at(str(path)) from None
        except Exception as error:  # a damaged archive
            raise ExportError(f"{path} cannot be read: {error}; download the model again") from None

    return read


def _array(path: Path, root: str, tensor: _Tensor) -> NDArray[Any]:
    kind = np.dtype(_DTYPES[tensor.storage.kind])
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{root}data/{tensor.storage.key}")
        expected = tensor.storage.num_numbers * kind.itemsize
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != expected:
            raise _UnreadableError(
                f"the storage {tensor.storage.key} has {member.file_size} bytes, or is compressed; "
                f"expected {expected}"
            )
        numbers = np.frombuffer(archive.read(member), dtype=kind)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.shape,
        [step * kind.itemsize for step in tensor.strides],
        writeable=False,
    )
