"""The folder next to an output that holds finished scores, one file per shard.

It records what the scores were computed from. Files appear whole, so a kill costs at most the shard
in progress.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.whole_files import remove_leftovers, replacing_path, write_whole
from rfprm_runtime.selection.scores import ShardScores
from rfprm_runtime.traces.provenance import differences

MANIFEST_NAME = "manifest.json"
_FORMAT_VERSION = 1


class WorkFolder:
    """Scores of one input by one artifact with one set of settings."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """Open or create ``path``; ``manifest`` says what the scores are computed from.

        Raises :class:`RfprmError` if the folder holds scores of something else.
        """
        self.path = path
        manifest = {"format_version": _FORMAT_VERSION, **manifest}
        if (path / MANIFEST_NAME).is_file():
            self._check(manifest)
        elif path.exists() and not path.is_dir():
            raise RfprmError(f"{path} is a file; choose a folder for the scores (--work)")
        elif path.exists() and any(path.iterdir()):
            raise RfprmError(
                f"{path} holds other files and no scores; choose another folder (--work)"
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / MANIFEST_NAME, json.dumps(manifest, indent=2) + "\n")
        remove_leftovers(path)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Lock the folder for this run until the block ends or the process dies.

        Raises :class:`RfprmError` if another run holds it. On a system or file system without
        locks, it claims nothing.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        folder = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RfprmError(
                    f"another run is using {self.path}; wait for it, or choose another folder for "
                    "this one with --work"
                ) from None
            except OSError:  # some network file systems
                pass
            yield
        finally:
            os.close(folder)

    def _check(self, manifest: dict[str, Any]) -> None:
        try:
            found = json.loads((self.path / MANIFEST_NAME).read_text(encoding="utf-8"))
        except ValueError as error:
            raise RfprmError(
                f"{self.path / MANIFEST_NAME} is not JSON ({error}); remove the folder"
            ) from None
        found_differences = differences(found, manifest)
        if found_differences:
            raise RfprmError(
                f"{self.path} holds scores of something else: {'; '.join(found_differences)}. "
                "Continue with the same input, artifact and settings, choose another --work "
                "folder, or remove this one to score again"
            )

    def has(self, index: int) -> bool:
        return self._file(index).is_file()

    def save(self, index: int, content: bytes) -> None:
        with replacing_path(self._file(index)) as partial:
            partial.write_bytes(content)

    def load(self, index: int) -> ShardScores:
        """The scores of a shard. Raises :class:`RfprmError` if a failing disk damaged the file."""
        path = self._file(index)
        try:
            return ShardScores.from_bytes(path.read_bytes())
        except Exception as error:  # zipfile and numpy raise many kinds for a damaged file
            raise RfprmError(
                f"{path} is damaged ({error}); remove it and run the same command again"
            ) from None

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def _file(self, index: int) -> Path:
        return self.path / f"shard-{index:06d}.npz"
