"""Writes safetensors files a tensor at a time. Knows no models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.ground.progress import Step

_DTYPE_NAMES = {"int8": "I8", "int32": "I32", "int16": "I16", "float32": "F32", "float64": "F64"}
_ALIGNMENT = 64


@dataclass(frozen=True)
class Planned:
    """A tensor that is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    make: Callable[[], NDArray[Any]]


def write_aligned(
    path: Path,
    tensors: Iterable[Planned],
    metadata: Mapping[str, str],
    step: Step = lambda done, total: None,
) -> None:
    """Write a safetensors file whose data begin at a multiple of 64 bytes, for vector loads.

    One tensor is in memory at a time, in the order given. ``step`` is called with the tensors
    written and their number.
    """
    planned = list(tensors)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for tensor in planned:
        end = offset + math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        header[tensor.name] = {
            "dtype": _DTYPE_NAMES[np.dtype(tensor.dtype).name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for count, tensor in enumerate(planned, start=1):
            made = np.ascontiguousarray(tensor.make())
            assert made.shape == tensor.shape, tensor.name
            assert made.dtype.type is tensor.dtype, tensor.name
            file.write(made.data)
            del made  # before the next one is made
            step(count, len(planned))


def of_float32(
    shapes: Iterable[tuple[str, tuple[int, ...]]], read: Callable[[str], NDArray[np.float32]]
) -> Iterator[Planned]:
    """Tensors of these names and shapes, each read when its turn comes."""
    for name, shape in shapes:
        yield Planned(name, shape, np.float32, partial(read, name))


def in_memory(tensors: Mapping[str, NDArray[Any]]) -> list[Planned]:
    """Tensors that are there already."""
    return [
        Planned(name, array.shape, array.dtype.type, lambda array=array: array)  # type: ignore[misc]
        for name, array in tensors.items()
    ]
