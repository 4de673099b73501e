"""Reads a ``*.safetensors`` file as float32. Knows no models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from rfprm_export import ExportError
from rfprm_export.stored_weights import Stored, StoredWeights

_AGAIN = "download the model again"
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def open_safetensors(path: Path) -> StoredWeights:
    """Every tensor of one file, to be read as float32. Only its header is read now.

    Raises :class:`ExportError`, now or when a tensor is read, if the file is damaged, was changed
    since, or holds numbers that are not floats or not finite.
    """
    version = version_of(path)

    def reader(name: str) -> Callable[[], NDArray[np.float32]]:
        def read() -> NDArray[np.float32]:
            if version_of(path) != version:
                raise ExportError(f"{path} was changed while it was read; start again")
            with _opened(path) as file:  # anew, so that no page of it stays in memory
                return as_float32(file.get_tensor(name), name)

        return read

    with _opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (a safe_open is not a mapping)
    return StoredWeights({name: Stored(shape, reader(name)) for name, shape in shapes.items()})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(str(path), framework="numpy") as file:
            yield file
    except ExportError as error:
        raise error.at(str(path)) from None
    except Exception as error:  # safetensors raises its own error, OSError or a bare Exception
        raise ExportError(f"{path} cannot be read as safetensors: {error}") from error


def version_of(path: Path) -> tuple[int, ...]:
    """What differs once a file was changed. Raises :class:`ExportError` if it is not there."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def as_float32(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    """``array`` as finite float32. Raises :class:`ExportError`."""
    if array.dtype.name not in _FLOATS:
        raise ExportError(f"{name!r} is of type {array.dtype}, expected one of {_FLOATS}")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        floats = np.asarray(array).astype(np.float32, copy=False)
        # The sum is finite if every number is; it takes no memory.
        total = floats.sum(dtype=np.float64)
    if not np.isfinite(total) and not np.isfinite(floats).all():
        raise ExportError(f"{name!r} holds NaN or infinite numbers; {_AGAIN}")
    return floats
