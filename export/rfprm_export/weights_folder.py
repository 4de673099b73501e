"""The weights in a model's folder, alone or in shards: safetensors or, without any, what
``torch.save`` wrote. Knows no models.

Which files are the weights is decided by names alone, so that it can be asked of a repository too.
The rules are those of transformers' ``from_pretrained``, except that what it would guess is
refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from rfprm_export import ExportError
from rfprm_export.pickled_weights import open_pickled
from rfprm_export.stored_weights import Stored, StoredWeights
from rfprm_export.weights_files import open_safetensors
from rfprm_export.wrapped_names import without_wrappers
from rfprm_runtime.ground.names import check_file_name, file_in
from rfprm_runtime.ground.strict_json import read_json_object

INDEX_NAME = "model.safetensors.index.json"
_AGAIN = "download the model again"
# Of the same endings, and no weights of the model: adapters, copies in another layout, what
# training keeps.
_OTHERS = ("adapter*", "consolidated*", "optimizer*")
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.\w+)")


@dataclass(frozen=True)
class _Kind:
    """How weights may be stored."""

    pattern: str
    """Of the files; others of the same ending are no weights (``training_args.bin``)."""
    whole: str
    """The file of weights that are not in shards."""
    index: str
    open: Callable[[Path], StoredWeights]


_KINDS = (
    _Kind("*.safetensors", "model.safetensors", INDEX_NAME, open_safetensors),
    _Kind("pytorch_model*.bin", "pytorch_model.bin", "pytorch_model.bin.index.json", open_pickled),
)


@dataclass(frozen=True)
class Choice:
    """Which files of a folder are its weights."""

    kind: _Kind
    names: tuple[str, ...]
    """Empty if the index names them."""

    @property
    def has_index(self) -> bool:
        return not self.names


def chosen_weights(names: Collection[str], place: str) -> Choice:
    """The weights among the files ``names`` of a folder or repository called ``place``.

    safetensors come before pickles; an index says which files belong together, else it is
    ``model.safetensors`` alone, else all. Raises :class:`ExportError` if there are none, if a shard
    is missing, or if there are two sets.
    """
    for kind in _KINDS:
        found = sorted(name for name in names if _is_weights(name, kind))
        if kind.index in names:
            if kind.whole in found:
                raise ExportError(
                    f"{place} holds two sets of weights, {kind.whole} and those of {kind.index}; "
                    "remove one of them"
                )
            return Choice(kind, ())
        if kind.whole in found:
            return Choice(kind, (kind.whole,))
        if found:
            _check_shards(found, place)
            return Choice(kind, tuple(found))
    raise ExportError(
        f"{place} holds no weights: expected {' or '.join(kind.pattern for kind in _KINDS)}"
        f"{_weights_below(names)}"
    )


def holds_weights(names: Collection[str]) -> bool:
    """Whether any of the files ``names`` are weights, of one whole set or not."""
    return any(_is_weights(name, kind) for kind in _KINDS for name in names)


def weights_named_by(choice: Choice, folder: Path) -> list[str]:
    """The files of a choice; an index is read in ``folder``. Raises :class:`ExportError`."""
    if not choice.has_index:
        return list(choice.names)
    return sorted(set(_read_index(folder, choice.kind).values()))


def open_weights(folder: Path) -> StoredWeights:
    """Every tensor of the folder's weights: those of their index, if there is one.

    Raises :class:`ExportError` if there are none, if the index names anything but files of the
    folder, and for a tensor that is missing, there twice, or damaged.
    """
    choice = chosen_weights(_names_in(folder), str(folder))
    index = _read_index(folder, choice.kind) if choice.has_index else {}
    found: dict[str, Stored] = {}
    for name in sorted(set(index.values())) or choice.names:
        path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
        for tensor, stored in choice.kind.open(path).stored.items():
            if tensor in found:
                raise ExportError(f"{path} holds {tensor!r}, and so does another file; {_AGAIN}")
            found[tensor] = stored
    if missing := sorted(index.keys() - found.keys()):
        raise ExportError(
            f"{folder / choice.kind.index} lists {missing[0]!r}, which no file has; {_AGAIN}"
        )
    return without_wrappers(StoredWeights(found), str(folder))


def _is_weights(name: str, kind: _Kind) -> bool:
    return (
        "/" not in name
        and fnmatch(name, kind.pattern)
        and not any(fnmatch(name, other) for other in _OTHERS)
    )


def _read_index(folder: Path, kind: _Kind) -> dict[str, str]:
    """Tensors to files, at least one."""
    path = file_in(folder, kind.index, refusal=ExportError, way_out=_AGAIN)
    index = read_json_object(path, refusal=ExportError, way_out=_AGAIN).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise ExportError(f"{path} has no weight_map from tensors to files; {_AGAIN}")
    if not index:
        raise ExportError(f"{path} lists no tensors; {_AGAIN}")
    if other := [name for name in index.values() if not _is_weights(name, kind)]:
        raise ExportError(f"{path} names {other[0][:80]!r}, expected {kind.pattern}; {_AGAIN}")
    names = set(index.values())
    for name in names:
        check_file_name(name, refusal=ExportError)
    _check_shards(names, str(path))
    return index


def _check_shards(names: Iterable[str], place: str) -> None:
    """Raises :class:`ExportError` if files are named as shards of a set that is not whole."""
    sets: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if (found := _SHARD.fullmatch(name)) is not None:
            base, number, of, suffix = found.groups()
            sets.setdefault((base, of, suffix), set()).add(int(number))
    if len(sets) > 1:
        several = [f"{base}-…-of-{of}{suffix}" for base, of, suffix in sorted(sets)]
        raise ExportError(f"{place} names shards of several sets, {several}; keep one of them")
    for (base, of, suffix), numbers in sets.items():
        lacking = min(set(range(1, int(of) + 1)) - numbers, default=None)
        if lacking is not None:
            raise ExportError(
                f"{place} has {len(numbers)} of {int(of)} shards: "
                f"{base}-{lacking:05}-of-{of}{suffix} is missing; {_AGAIN}"
            )


def _names_in(folder: Path) -> list[str]:
    """What the folder holds, and as ``folder/name`` what its own folders hold."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise ExportError(f"{folder} cannot be listed: {error}") from None
    below = []
    for name in names:
        with suppress(OSError):  # a file, or a folder of somebody else
            below += [f"{name}/{inner}" for inner in os.listdir(folder / name)]
    return names + below


def _weights_below(names: Collection[str]) -> str:
    """The subfolders that hold weights, in words."""
    below = {
        folder
        for folder, slash, name in (name.rpartition("/") for name in names)
        if slash and any(_is_weights(name, kind) for kind in _KINDS)
    }
    if not below:
        return ""
    return f" at its top, and not in {sorted(below)[:4]}: give one of these folders by itself"
