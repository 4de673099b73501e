"""Reads the files of an artifact, so that the bytes that are checked are the bytes that are used.

A file is read once, into memory of this process, and its digest is taken on the way: what happens
to the file afterwards cannot reach the model. Where memory must be shared between processes, a file
can be mapped instead; then it is watched. Knows names, sizes and digests, not what is in a file.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.integrity import check_digest, check_file, check_size, place_of
from rfprm_runtime.artifact.manifest import (
    NATIVE_NAME,
    ONNX_NAME,
    PLAN_NAME,
    TOKENIZER_NAME,
    TORCH_NAME,
    FileRecord,
)
from rfprm_runtime.errors import ArtifactError

_CHUNK_BYTES = 1 << 20
_CLOCK_TICK_NS = 20_000_000
"""Two changes within a tick of the file system's clock may carry the same time."""

_NO_DATA = {TOKENIZER_NAME, ONNX_NAME, NATIVE_NAME, PLAN_NAME, TORCH_NAME}
Content = NDArray[np.uint8]


class ArtifactFiles:
    """The files of one folder. ``records``: what the manifest says about them; a file without a
    record is read unchecked."""

    def __init__(self, folder: Path, records: Mapping[str, FileRecord] | None = None) -> None:
        self.folder = folder
        self.records = dict(records or {})
        self._seen: set[str] = set()

    def file(self, name: str) -> ModelFile:
        return ModelFile(self, name)

    def read(self, name: str) -> Content:
        """The content of a file, in memory of this process.

        Raises :class:`ArtifactError` if it cannot be read or is not what its record says.
        """
        path, record = self._place(name), self.records.get(name)
        try:
            with path.open("rb", buffering=0) as file:
                return _read_private(file, path, record)
        except OSError as error:
            raise _unreadable(path, error) from None

    def watch(self, name: str) -> WatchedFile:
        """A file that something maps or reads by its path; checked like :meth:`read`."""
        return WatchedFile(self._place(name), self.records.get(name))

    def _place(self, name: str) -> Path:
        self._seen.add(name)
        return place_of(self.folder, name)

    def data_of(self, graph: str) -> list[str]:
        """The files that may hold the weights of the ONNX graph with this name."""
        if not self.records:
            name = f"{graph}.data"
            return [name] if (self.folder / name).is_file() else []
        return [name for name in self.records if name != graph and name not in _NO_DATA]

    def largest_data(self, graph: str) -> int:
        """The size of the largest of :meth:`data_of` a graph; 0 if there is none."""
        sizes = [0]
        for name in self.data_of(graph):
            with suppress(OSError):  # reading it will say what is wrong
                sizes.append((self.folder / name).stat().st_size)
        return max(sizes)

    def check_rest(self) -> None:
        """Compare the files that nobody has read with their records.

        Raises :class:`ArtifactError` naming the first that is missing, truncated or modified.
        """
        for name, record in self.records.items():
            if name not in self._seen:
                check_file(self.folder, name, record)


class ModelFile:
    """A file that a backend runs, and the folder it is in."""

    def __init__(self, files: ArtifactFiles, name: str) -> None:
        self.files, self.name = files, name
        self.path = files.folder / name

    @classmethod
    def of(cls, file: Path | ModelFile) -> ModelFile:
        """``file`` itself, or the file at a path, about which no manifest says anything."""
        return file if isinstance(file, ModelFile) else ArtifactFiles(file.parent).file(file.name)

    def read(self) -> Content:
        return self.files.read(self.name)

    def watch(self) -> WatchedFile:
        return self.files.watch(self.name)


class WatchedFile:
    """A file that must not change while it is in use, and says so if it does.

    It is noticed if its size or its times change; what only looks changed (a link more or less, a
    copy of the same content) is read again and compared with its digest. Replacing it by renaming
    another file is harmless: the old one stays open. Truncating it while it is mapped and being
    read kills the process (SIGBUS), which nothing can prevent.
    """

    def __init__(self, path: Path, record: FileRecord | None) -> None:
        """Raises :class:`ArtifactError` if it cannot be read or is not what ``record`` says."""
        self._path, self._record = path, record
        self._lock = threading.Lock()
        self._has_changed = False
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise _unreadable(path, error) from None
        weakref.finalize(self, os.close, self._descriptor)
        self._times = self._settled()
        if record is not None:
            check_size(path, self._times[0], record)
            check_digest(path, self._digest(), record)
            self.check()

    def map(self) -> Content:
        """Its content, read-only, in memory that processes share."""
        size = self._times[0]
        if not size:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ), np.uint8)

    @property
    def num_bytes(self) -> int:
        return self._times[0]

    def read(self, first: int, last: int) -> Content:
        """The bytes from ``first`` up to ``last``, in memory of this process.

        Raises :class:`ArtifactError` if the file was changed, or cannot be read.
        """
        content = private_memory(last - first)
        try:
            with self._lock:
                os.lseek(self._descriptor, first, os.SEEK_SET)
                _fill(content, self._descriptor)
        except OSError as error:
            raise _unreadable(self._path, error) from None
        self.check()
        return content

    def check(self) -> None:
        """Raises :class:`ArtifactError` if the content is not, or may not be, what it was."""
        if self._now() == self._times and not self._has_changed:
            return
        with self._lock:
            times = self._now()
            if not self._has_changed and times != self._times:
                self._has_changed = not self._is_the_same(times)
                self._times = times
        if self._has_changed:
            raise ArtifactError(
                f"{self._path} was changed while it was in use, so what was computed from it is "
                "worth nothing; restore it and load the scorer again, or load it without "
                "map_weights"
            )

    def _is_the_same(self, times: tuple[int, int, int]) -> bool:
        if times[0] != self._times[0]:
            return False
        if self._record is None:  # nothing to compare with: only the change of a link is harmless
            return times[1] == self._times[1]
        return self._digest() == self._record.sha256 and self._now() == times

    def _digest(self) -> str:
        digest = hashlib.sha256()
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while chunk := os.read(self._descriptor, _CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()

    def _settled(self) -> tuple[int, int, int]:
        """Size and times, once a later change must show in them."""
        if abs(time.time_ns() - max(self._now()[1:])) < _CLOCK_TICK_NS:
            time.sleep(_CLOCK_TICK_NS / 1e9)
        return self._now()

    def _now(self) -> tuple[int, int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
    return ArtifactError(f"{path} {problem}; export or copy the artifact again")


def _read_private(file: io.FileIO, path: Path, record: FileRecord | None) -> Content:
    """The whole file, compared with ``record`` while it is read."""
    size = os.fstat(file.fileno()).st_size
    if record is not None:
        check_size(path, size, record)
    content = private_memory(size)
    view, digest, at = content.data, hashlib.sha256(), 0
    while at < size:
        count = file.readinto(view[at : at + _CHUNK_BYTES])
        if not count:
            break
        if record is not None:  # while the bytes are still in the processor's cache
            digest.update(view[at : at + count])
        at += count
    if at < size or file.read(1):
        raise ArtifactError(f"{path} changed its size while it was read; copy the artifact again")
    if record is not None:
        check_digest(path, digest.hexdigest(), record)
    return content


def _fill(content: Content, descriptor: int) -> None:
    """Read as much as there is: what is missing shows in the size of the file."""
    at = 0
    while at < len(content) and (
        chunk := os.read(descriptor, min(_CHUNK_BYTES, len(content) - at))
    ):
        content[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)


def private_memory(num_bytes: int) -> Content:
    """Zeroed memory of this process alone, at a multiple of 64; in large pages where the system has
    them, which makes it cheaper to fill and to read."""
    if not num_bytes:
        return np.zeros(0, np.uint8)
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return np.frombuffer(mmap.mmap(-1, num_bytes), np.uint8)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
