"""The bytes of a file, unpacked if its name says that it is compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rfprm_runtime.errors import MissingExtraError, SourceError

_DAMAGED = (OSError, EOFError, lzma.LZMAError)
_SKIP = 1 << 20


def _zstd(file: BinaryIO) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("pyarrow", "select", "reading files packed by zstd") from None
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


_UNPACKERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstd,
    ".zstd": _zstd,
}
PACKED_SUFFIXES = tuple(_UNPACKERS)


def suffix_of(path: Path) -> str:
    """The suffix that tells the format: ``.jsonl`` also of ``traces.jsonl.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _UNPACKERS else suffix


class Bytes:
    """A file read forwards, line by line. Raises :class:`SourceError` if it cannot be unpacked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raw = path.open("rb")
        unpack = _UNPACKERS.get(path.suffix.lower())
        self._file: Any = self._raw if unpack is None else unpack(self._raw)
        self.began_with = os.fstat(self._raw.fileno())
        """The file as it was opened."""
        self._num_bytes = self.began_with.st_size
        self.position = 0
        """Bytes read so far, unpacked."""

    def share_read(self) -> float:
        """How much of the file was read, in [0, 1]."""
        return min(1.0, self._raw.tell() / self._num_bytes) if self._num_bytes else 1.0

    def readline(self) -> bytes:
        """The next line with its end; empty at the end of the file."""
        line = self._read(self._file.readline)
        self.position += len(line)
        return line

    def read(self) -> bytes:
        """All that is left."""
        rest = self._read(self._file.read)
        self.position += len(rest)
        return rest

    def skip_to(self, position: int) -> None:
        """Read on to ``position``, which must not lie before the present one."""
        if self._file is self._raw:
            self._raw.seek(position)
            self.position = position
        while self.position < position:
            self.position += len(self._read(self._file.read, min(_SKIP, position - self.position)))

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _read(self, function: Callable[..., bytes], *arguments: int) -> bytes:
        try:
            return function(*arguments)
        except _DAMAGED as error:
            if self._file is self._raw:
                raise
            raise SourceError(f"{self._path} cannot be unpacked: {error}") from None
