"""The folder next to an output that holds finished scores, one file per shard.

It records what the scores were computed from. Files appear whole, so a kill costs at most the shard
in progress.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.claims import claimed_folder
from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_runtime.ground.whole_files import remove_folder, remove_leftovers, replacing_path
from rfprm_runtime.selection.scores import ShardScores

MANIFEST_NAME = "manifest.json"
_FORMAT_VERSION = 1
"""Rises when the code begins to give other scores."""
_WAY_OUT = "wait for it, or choose another folder for this one with --work"


class WorkFolder:
    """Scores of one input by one artifact with one set of settings."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        """``manifest`` says what the scores are computed from; nothing is read or written yet."""
        self.path = path
        self._manifest = {"format_version": _FORMAT_VERSION, **manifest}

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Open or create the folder, and lock it until the block ends or the process dies.

        Raises :class:`RfprmError` if the folder holds scores of something else, or another run
        has it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RfprmError(f"{self.path} is a file; choose a folder for the scores (--work)")
        self.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.path.parent, self.path.name)
        with claimed_folder(self.path, _WAY_OUT):
            remove_leftovers(self.path)
            self._check_or_record()
            yield

    def _check_or_record(self) -> None:
        made_from = MadeFrom(self.path / MANIFEST_NAME)
        if made_from.is_recorded:
            self._check(made_from)
        elif any(self.path.iterdir()):
            raise RfprmError(
                f"{self.path} holds other files and no scores; choose another folder (--work)"
            )
        else:
            made_from.record(self._manifest)

    def _check(self, made_from: MadeFrom) -> None:
        changed = made_from.changes(self._manifest)
        if changed:
            raise RfprmError(
                f"{self.path} holds scores of something else: {'; '.join(changed)}. "
                "Continue with the same input, artifact and settings, choose another --work "
                "folder, or remove this one to score again"
            )

    @property
    def artifact_digest(self) -> str:
        """Identifies the artifact that the scores come from."""
        return str(self._manifest["artifact"]["manifest_sha256"])

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
        remove_folder(self.path)

    def _file(self, index: int) -> Path:
        return self.path / f"shard-{index:06d}.npz"
