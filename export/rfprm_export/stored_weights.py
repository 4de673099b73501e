"""Weights that stay in their files: each is read when it is asked for, so that a model larger than
the memory can be exported. Knows no models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rfprm_export import ExportError

Array = NDArray[np.float32]
Weights = Mapping[str, Array]
"""Tensors by Hugging Face's names, float32, linears as [out, in]."""
_KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Stored:
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    read: Callable[[], Array]

    @classmethod
    def of(cls, array: Array) -> Stored:
        """One that is in memory."""
        return cls(array.shape, lambda: array)


def stay_in_files(weights: Weights) -> bool:
    """Whether a model is so large that its weights are not kept in memory."""
    return isinstance(weights, StoredWeights) and not weights.are_kept


class StoredWeights(Weights):
    """A mapping whose values are read anew, each time. Iterating over names, ``len`` and ``in``
    read nothing."""

    def __init__(self, stored: Mapping[str, Stored], *, are_kept: bool = False) -> None:
        self.stored = dict(stored)
        self.are_kept = are_kept
        """Whether a tensor that was read stays in memory."""

    @classmethod
    def of(cls, arrays: Weights) -> StoredWeights:
        """Those that are in memory."""
        return cls({name: Stored.of(array) for name, array in arrays.items()})

    def __getitem__(self, name: str) -> Array:
        """Raises :class:`ExportError` if its file was changed, or holds no finite floats."""
        expected = self.stored[name]
        array = expected.read()
        if array.shape != expected.shape:
            raise ExportError(
                f"{name!r} had shape {expected.shape} and has {array.shape} now; the file was "
                "changed while it was read: start again"
            )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # a Mapping would read it

    def only(self, is_wanted: Callable[[str], bool]) -> StoredWeights:
        return StoredWeights({n: one for n, one in self.stored.items() if is_wanted(n)})

    def including(self, more: Mapping[str, Stored]) -> StoredWeights:
        """With ``more``, which replace tensors of the same names."""
        return StoredWeights({**self.stored, **more})

    def kept_if_small(self) -> StoredWeights:
        """The same, each read once and kept in memory, if they take less than a GiB together."""
        if 4 * sum(math.prod(one.shape) for one in self.stored.values()) > _KEPT_BYTES:
            return self
        kept = {n: Stored(one.shape, cache(one.read)) for n, one in self.stored.items()}
        return StoredWeights(kept, are_kept=True)
