"""Finds near-duplicates among millions of texts: MinHash by datasketch, with its bands on disk.

datasketch's own index lives in memory. Here the bands are in a temporary SQLite file, so memory
does not grow with the data.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.whole_files import scratch_folder, told_what_to_do

_SHINGLE = 5
_CACHE_KIB = 64 * 1024


class NearDuplicates:
    """Remembers texts and finds the earlier one that a new text repeats.

    A context manager; the index is deleted at the end.
    """

    def __init__(self, threshold: float, *, num_permutations: int = 64, seed: int = 1) -> None:
        try:
            from datasketch import MinHash
        except ImportError:
            raise MissingExtraError("datasketch", "data", "removal of duplicates") from None
        self._threshold = threshold
        self._empty = MinHash(num_perm=num_permutations, seed=seed)
        self._rows = rows_per_band(threshold, num_permutations)
        self._open = ExitStack()
        self._folder = self._open.enter_context(scratch_folder("rfprm-duplicates"))
        try:
            with told_what_to_do(self._folder / "bands.sqlite"):
                self._index = self._new_index()
        except BaseException:
            self._open.close()
            raise

    def _new_index(self) -> sqlite3.Connection:
        index = sqlite3.connect(self._folder / "bands.sqlite")
        self._open.callback(index.close)
        index.execute("PRAGMA journal_mode=OFF")
        index.execute("PRAGMA synchronous=OFF")
        index.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        index.execute("CREATE TABLE texts (id INTEGER PRIMARY KEY, place TEXT, hash BLOB)")
        index.execute(
            "CREATE TABLE bands (band INTEGER, text INTEGER, PRIMARY KEY (band, text)) "
            "WITHOUT ROWID"
        )
        return index

    def add(self, text: str, place: str, kind: str = "") -> str | None:
        """The place of an earlier, similar text of this ``kind``. If there is none, remembers this
        text and returns None."""
        signature = self._signature(text)
        bands = _band_hashes(signature, self._rows, kind)
        earlier = self._most_alike(signature, bands)
        if earlier is None:
            with told_what_to_do(self._folder / "bands.sqlite"):
                self._remember(signature, bands, place)
        return earlier

    def _remember(self, signature: NDArray[np.uint32], bands: list[int], place: str) -> None:
        cursor = self._index.execute(
            "INSERT INTO texts (place, hash) VALUES (?, ?)", (place, signature.tobytes())
        )
        self._index.executemany(
            "INSERT OR IGNORE INTO bands VALUES (?, ?)",
            [(band, cursor.lastrowid) for band in bands],
        )

    def _signature(self, text: str) -> NDArray[np.uint32]:
        words = re.findall(r"\w+", text.lower())
        count = max(1, len(words) - _SHINGLE + 1)
        shingles = {" ".join(words[start : start + _SHINGLE]) for start in range(count)}
        sketch = self._empty.copy()
        sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
        # The hash values have 32 bits.
        return np.asarray(sketch.hashvalues, dtype=np.uint64).astype(np.uint32)

    def _most_alike(self, signature: NDArray[np.uint32], bands: list[int]) -> str | None:
        marks = ",".join("?" * len(bands))
        rows = self._index.execute(
            "SELECT DISTINCT texts.id, place, hash FROM bands JOIN texts ON texts.id = bands.text "
            f"WHERE band IN ({marks}) ORDER BY texts.id",
            bands,
        )
        for _, place, stored in rows:
            share = float((np.frombuffer(stored, dtype=np.uint32) == signature).mean())
            if share >= self._threshold:
                return str(place)
        return None

    def __enter__(self) -> NearDuplicates:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()


def rows_per_band(threshold: float, num_permutations: int) -> int:
    """Rows per band such that texts of similarity ``threshold`` share a band with a chance of at
    least 95 %. The chance is 1 − (1 − sʳ)^(n/r); more rows mean fewer texts to compare."""
    rows = 1
    for candidate in range(2, num_permutations // 4 + 1):
        if 1 - (1 - threshold**candidate) ** (num_permutations // candidate) >= 0.95:
            rows = candidate
    return rows


def _band_hashes(signature: NDArray[np.uint32], rows: int, kind: str) -> list[int]:
    """One signed 64-bit hash per band."""
    hashes = []
    for index in range(len(signature) // rows):
        part = signature[index * rows : (index + 1) * rows].tobytes()
        salt = index.to_bytes(4, "little")
        digest = hashlib.blake2b(part + kind.encode(), digest_size=8, salt=salt)
        hashes.append(int.from_bytes(digest.digest(), "little", signed=True))
    return hashes
