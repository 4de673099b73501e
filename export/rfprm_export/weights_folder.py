"""The weights in a model's folder, alone or in shards: safetensors or, without any, what
``torch.save`` wrote. Knows no models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rfprm_export import ExportError
from rfprm_export.pickled_weights import open_pickled
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.weights_files import open_safetensors
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.strict_json import read_json_object

INDEX_NAME = "model.safetensors.index.json"
_AGAIN = "download the model again"


@dataclass(frozen=True)
class _Kind:
    """How weights may be stored."""

    pattern: str
    """Of the files; others of the same ending are no weights (``training_args.bin``)."""
    index: str
    open: Callable[[Path], StoredWeights]


_KINDS = (
    _Kind("*.safetensors", INDEX_NAME, open_safetensors),
    _Kind("pytorch_model*.bin", "pytorch_model.bin.index.json", open_pickled),
)


def open_weights(folder: Path) -> StoredWeights:
    """Every tensor of the folder's weights: those of their index, if there is one.

    Raises :class:`ExportError` if there are none, if the index names anything but files of the
    folder, and for a tensor that is missing, there twice, or damaged.
    """
    for kind in _KINDS:
        index = _read_index(folder, kind) if holds_file(folder, kind.index) else None
        names = sorted(_found(folder, kind) if index is None else set(index.values()))
        if names:
            return _opened(folder, kind, names, index or {})
    raise ExportError(
        f"{folder} holds no weights: expected {' or '.join(kind.pattern for kind in _KINDS)}; "
        f"{_AGAIN}"
    )


def _opened(folder: Path, kind: _Kind, names: list[str], index: dict[str, str]) -> StoredWeights:
    found: dict[str, Stored] = {}
    for name in names:
        path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
        for tensor, stored in kind.open(path).stored.items():
            if tensor in found:
                raise ExportError(f"{path} holds {tensor!r}, and so does another file; {_AGAIN}")
            found[tensor] = stored
    if missing := sorted(index.keys() - found.keys()):
        raise ExportError(
            f"{folder / kind.index} lists {missing[0]!r}, which no file has; {_AGAIN}"
        )
    return StoredWeights(found)


def _read_index(folder: Path, kind: _Kind) -> dict[str, str]:
    path = file_in(folder, kind.index, refusal=ExportError, way_out=_AGAIN)
    index = read_json_object(path, refusal=ExportError, way_out=_AGAIN).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise ExportError(f"{path} has no weight_map from tensors to files; {_AGAIN}")
    if other := [name for name in index.values() if not fnmatch(name, kind.pattern)]:
        raise ExportError(f"{path} names {other[0][:80]!r}, expected {kind.pattern}; {_AGAIN}")
    return index


def _found(folder: Path, kind: _Kind) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if fnmatch(path.name, kind.pattern)]
    except OSError as error:
        raise ExportError(f"{folder} cannot be listed: {error}") from None
