"""Reads the float32 weights that an ONNX graph keeps in a file beside it. Knows no networks.

Trusts nothing in the graph: every tensor must be a plain one, and lie whole in a file of the
artifact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import Content, ModelFile, WatchedFile
from rfprm_runtime.artifact.onnx_file import check_listed, external_names
from rfprm_runtime.artifact.tensors import LazyTensors
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.protobuf import LENGTH, VARINT, Field, message_fields

# Fields of the messages of onnx.proto (ONNX 1.19).
_GRAPH_OF_MODEL, _INITIALIZER_OF_GRAPH = 7, 5
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL_DATA = 1, 2, 8, 13
_KEY, _VALUE = 1, 2
_FLOAT32 = 1
_MAX_DIGITS = 18
"""Of an offset or a length: below 2^63."""

Access = Literal["read", "map", "stay"]
"""Read the file into memory of this process, map it, or leave it where it is."""


@dataclass
class _Place:
    """Where a tensor lies."""

    name: str = ""
    data_type: int = 0
    shape: list[int] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)


class GraphWeights(LazyTensors):
    """The external float32 tensors of a graph. A tensor of a file that stays where it is is read
    anew each time, into memory of this process; otherwise it is a view, or a copy if it is not
    aligned."""

    def __init__(self, graph: ModelFile, access: Access = "read") -> None:
        """Raises :class:`ArtifactError` if the files are not what their records say, or hold no
        such graph. So does reading, once a file that was not read was changed."""
        self.path = graph.path
        content = graph.read().tobytes()
        names = external_names(content, graph.path)
        check_listed(names, graph.path, graph.files.records or None)
        self._watched: dict[str, WatchedFile] = {}
        self._files = {name: self._open(graph, name, access) for name in sorted(names)}
        self._known = {place.name: place for place in _external_tensors(content, self.path)}

    def _open(self, graph: ModelFile, name: str, access: Access) -> _File:
        if access == "read":
            return _in_memory(graph.files.read(name))
        watched = self._watched[name] = graph.files.watch(name)
        if access == "map":
            return _in_memory(watched.map())
        return _File(watched.num_bytes, watched.read)

    def check(self) -> None:
        """Raises :class:`ArtifactError` if a file that was not read was changed."""
        for file in self._watched.values():
            file.check()

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        place = self._known[name]
        file, first, last = self._span(place)
        content = file.read(first, last)
        if content.ctypes.data % 4:
            content = content.copy()
        try:
            return content.view(np.float32).reshape(place.shape)
        except ValueError as error:  # more dimensions than numpy has
            raise self._refusal(place, str(error)) from None

    def _span(self, place: _Place) -> tuple[_File, int, int]:
        file = self._files.get(place.external.get("location", ""))
        first, length = (self._size(place, key) for key in ("offset", "length"))
        if file is None or place.data_type != _FLOAT32:
            raise self._refusal(place, f"of type {place.data_type}, expected float32")
        if length != 4 * math.prod(place.shape) or first + length > file.num_bytes:
            raise self._refusal(
                place,
                f"of shape {place.shape} with {length} bytes from byte {first} of {file.num_bytes}",
            )
        return file, first, first + length

    def _size(self, place: _Place, key: str) -> int:
        text = place.external.get(key, "")
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise self._refusal(place, f"with {key} {text!r}, expected a number")
        return int(text)

    def _refusal(self, place: _Place, reason: str) -> ArtifactError:
        return ArtifactError(
            f"{self.path} has a weight {place.name!r} {reason}; export the artifact again"
        )


@dataclass(frozen=True)
class _File:
    num_bytes: int
    read: Callable[[int, int], Content]


def _in_memory(content: Content) -> _File:
    content.flags.writeable = False
    return _File(len(content), lambda first, last: content[first:last])


def _external_tensors(data: bytes, path: object) -> Iterator[_Place]:
    """Of the graph itself: other graphs inside nodes have weights of their own."""
    seen = set()
    for graph in _inside(data, 0, len(data), _GRAPH_OF_MODEL):
        for item in _inside(data, graph.start, graph.stop, _INITIALIZER_OF_GRAPH):
            place = _tensor(data, item)
            if not place.external:
                continue
            if place.name in seen:
                raise ArtifactError(
                    f"{path} has two weights {place.name!r}; export the artifact again"
                )
            seen.add(place.name)
            yield place


def _tensor(data: bytes, item: Field) -> _Place:
    place = _Place()
    for found in message_fields(data, item.start, item.stop, refusal=ArtifactError):
        if found.number == _NAME and found.kind == LENGTH:
            place.name = _text(data, found)
        elif found.number == _DATA_TYPE and found.kind == VARINT:
            place.data_type = found.value
        elif found.number == _DIMS:
            place.shape += _dims(data, found)
        elif found.number == _EXTERNAL_DATA and found.kind == LENGTH:
            entry = {
                part.number: _text(data, part)
                for part in message_fields(data, found.start, found.stop, refusal=ArtifactError)
                if part.kind == LENGTH
            }
            place.external[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    return place


def _dims(data: bytes, item: Field) -> list[int]:
    """One number, or several that are packed together."""
    if item.kind != LENGTH:
        return [item.value]
    found, number, shift = [], 0, 0
    for byte in data[item.start : item.stop]:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append(number)
            number = shift = 0
    return found


def _inside(data: bytes, start: int, stop: int, number: int) -> Iterator[Field]:
    for item in message_fields(data, start, stop, refusal=ArtifactError):
        if item.number == number and item.kind == LENGTH:
            yield item


def _text(data: bytes, item: Field) -> str:
    return data[item.start : item.stop].decode(errors="replace")
