"""A file that grows by whole lines, survives a kill, and gets its name when it is finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rfprm_runtime.ground.whole_files import errors_path_of, write_whole
from rfprm_runtime.traces.provenance import differences
from rfprm_training import TrainingError


class ResumableLines:
    """Collects lines for ``path`` in ``path.partial``, and failures in ``path.errors.jsonl``.

    ``key`` holds everything the lines depend on, the input's content included; a partial file is
    continued only with the same key. Each input record gives one line or one error, so their sum
    is the number of finished records.
    """

    def __init__(self, path: Path, key: dict[str, Any], *, overwrite: bool = False) -> None:
        """``overwrite`` replaces a finished file, or a partial file with another key. Without it,
        either raises :class:`TrainingError`."""
        check_free(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.errors_path = errors_path_of(path)
        self._partial = path.with_name(path.name + ".partial")
        self._key_path = path.with_name(path.name + ".partial.json")
        self._check_key(key, overwrite)
        self.num_lines = _keep_whole_lines(self._partial)
        self.num_errors = _keep_whole_lines(self.errors_path)
        self._lines = self._partial.open("a", encoding="utf-8")
        self._errors = self.errors_path.open("a", encoding="utf-8")

    @property
    def num_done(self) -> int:
        """Number of input records that are finished."""
        return self.num_lines + self.num_errors

    def write(self, line: str) -> None:
        self._lines.write(line)
        self._lines.flush()
        self.num_lines += 1

    def write_error(self, record: dict[str, Any]) -> None:
        self._errors.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._errors.flush()
        self.num_errors += 1

    def finish(self) -> None:
        """Give the file its name."""
        self._close()
        self._partial.replace(self.path)
        self._key_path.unlink()
        if not self.num_errors:
            self.errors_path.unlink()

    def _close(self) -> None:
        for file in (self._lines, self._errors):
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def __enter__(self) -> ResumableLines:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _check_key(self, key: dict[str, Any], overwrite: bool) -> None:
        key = json.loads(json.dumps(key))  # as it is read back
        if self._key_path.is_file():
            changed = differences(self._read_key(), key)
            if not changed:
                return
            if not overwrite:
                raise TrainingError(
                    f"{self._partial} was started with another input or other settings: "
                    f"{'; '.join(changed)}. Use --overwrite to start again, go back to the earlier "
                    "ones, or choose another name"
                )
            self._key_path.unlink()
        # What is left there belongs to another run.
        self._partial.unlink(missing_ok=True)
        self.errors_path.unlink(missing_ok=True)
        write_whole(self._key_path, json.dumps(key, sort_keys=True, indent=2) + "\n")

    def _read_key(self) -> dict[str, Any]:
        try:
            found = json.loads(self._key_path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"unreadable": str(self._key_path)}


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raises :class:`TrainingError` if ``path`` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise TrainingError(f"{path} exists; choose another name, or use --overwrite")


def _keep_whole_lines(path: Path) -> int:
    """Cut off a line that a kill left incomplete; returns the number of whole lines."""
    if not path.is_file():
        return 0
    count = end = position = 0
    with path.open("rb+") as file:
        for line in file:
            position += len(line)
            if line.endswith(b"\n"):
                count, end = count + 1, position
        file.truncate(end)
    return count
