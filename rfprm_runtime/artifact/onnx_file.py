"""Finds the files that an ONNX graph names, before any library opens them.

Walks the messages of ``onnx.proto`` that can hold a tensor, and nothing else: a runtime has no
``onnx`` package, and what ONNX Runtime refuses depends on its version.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.names import check_file_name, file_in
from rfprm_runtime.ground.protobuf import LENGTH, message_fields

_AGAIN = "export the artifact again"
# Message → field number → message inside it. Source: onnx.proto of ONNX 1.19.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}
_COMPILED = b"EPContext"
"""The operator of graphs compiled for one device: it names further files, or holds native code."""


def check_external_data(path: Path, manifest: Manifest) -> None:
    """:func:`check_listed` for the graph at ``path`` and the files of its manifest."""
    check_listed(external_files(path), path, manifest.files)


def check_listed(names: Collection[str], path: Path, records: Collection[str] | None) -> None:
    """Check that a graph names no other files than those of its artifact, which ``records`` lists;
    None if there is no manifest. Raises :class:`ArtifactError`."""
    for name in names:
        if records is not None and name not in records:
            raise ArtifactError(
                f"{path} reads weights from {name!r}, which the manifest does not list; {_AGAIN}"
            )
        file_in(path.parent, name, refusal=ArtifactError, way_out=_AGAIN)


def external_files(path: Path) -> set[str]:
    """The names of the files with weights of a graph, all of them plain names.

    Raises :class:`ArtifactError` for any other name, and if the file is not a graph.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return external_names(data, path)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise ArtifactError(f"{path} cannot be read as an ONNX graph ({error}); {_AGAIN}") from None


def external_names(content: bytes | mmap.mmap, path: Path) -> set[str]:
    """The same, of a graph in memory that was read from ``path``."""
    try:
        found = set(_locations(content))
    except ArtifactError as error:
        raise ArtifactError(f"{path} cannot be read as an ONNX graph ({error}); {_AGAIN}") from None
    return {_plain(name, path) for name in found}


def _plain(name: bytes, path: Path) -> str:
    try:
        return check_file_name(name.decode(), refusal=ArtifactError)
    except (ArtifactError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} names a file with weights: {error}; {_AGAIN}") from None


def _locations(data: bytes | mmap.mmap) -> Iterator[bytes]:
    """The value of every ``location`` of external data."""
    todo = [("model", 0, len(data))]  # a list, not recursion: graphs nest as deep as they like
    while todo:
        message, start, stop = todo.pop()
        key = value = b""
        for field in message_fields(data, start, stop, refusal=ArtifactError):
            inside = _INSIDE[message].get(field.number) if field.kind == LENGTH else None
            if inside == "key":
                key = data[field.start : field.stop]
            elif inside == "value":
                value = data[field.start : field.stop]
            elif inside == "operator":
                if data[field.start : field.stop] == _COMPILED:
                    raise ArtifactError("it was compiled for one device")
            elif inside is not None:
                todo.append((inside, field.start, field.stop))
        if message == "entry" and key == b"location":
            yield value
