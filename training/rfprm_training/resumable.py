"""A file that grows by whole lines, survives a kill, and gets its name when it is finished."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from rfprm_runtime.errors import OutputError
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.made_from import MadeFrom
from rfprm_runtime.ground.whole_files import (
    errors_path_of,
    put_in_place,
    remove_leftovers,
    told_what_to_do,
)
from rfprm_training import TrainingError


class ResumableLines:
    """Collects lines for ``path`` in ``path.partial``, and failures in ``path.errors.jsonl``.

    ``key`` holds everything the lines depend on, the input's content included; a partial file is
    continued only with the same key. Each input record gives one line or one error, so their sum
    is the number of finished records. One run at a time: a second one raises ``OutputError``.
    """

    def __init__(self, path: Path, key: dict[str, Any], *, overwrite: bool = False) -> None:
        """``overwrite`` replaces a finished file, or a partial file with another key. Without it,
        either raises :class:`TrainingError`."""
        self.path = path
        self.errors_path = errors_path_of(path)
        self._partial, key_path = _beside(path)
        self._key = MadeFrom(key_path)
        with ExitStack() as stack:
            stack.enter_context(claimed(path))
            _tidy(path)
            if path.exists() and not overwrite:
                raise _taken(path)
            self._check_key(key, overwrite)
            self.num_lines = _keep_whole_lines(self._partial)
            self.num_errors = _keep_whole_lines(self.errors_path)
            self._lines = self._partial.open("a", encoding="utf-8")
            self._errors = self.errors_path.open("a", encoding="utf-8")
            self._claim = stack.pop_all()

    @property
    def num_done(self) -> int:
        """Number of input records that are finished."""
        return self.num_lines + self.num_errors

    def write(self, line: str) -> None:
        self._append(self._lines, line)
        self.num_lines += 1

    def write_error(self, record: dict[str, Any]) -> None:
        self._append(self._errors, json.dumps(record, ensure_ascii=False) + "\n")
        self.num_errors += 1

    def finish(self) -> None:
        """Give the file its name."""
        with told_what_to_do(self.path):
            self._close_files()
        if not self.num_errors:
            self.errors_path.unlink()
        put_in_place(self._partial, self.path)
        # Last: without it, a kill before would leave lines that no key speaks for.
        self._key.path.unlink()

    def _append(self, file: IO[str], line: str) -> None:
        with told_what_to_do(self.path):
            file.write(line)
            file.flush()

    def _close_files(self) -> None:
        for file in (self._lines, self._errors):
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()

    def __enter__(self) -> ResumableLines:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._claim, told_what_to_do(self.path):
            self._close_files()

    def _check_key(self, key: dict[str, Any], overwrite: bool) -> None:
        if self._key.is_recorded and self._partial.is_file():
            changed = self._key.changes(key)
            if not changed:
                return
            if not overwrite:
                raise TrainingError(
                    f"{self._partial} was started with another input or other settings: "
                    f"{'; '.join(changed)}. Use --overwrite to start again, go back to the earlier "
                    "ones, or choose another name"
                )
        # What is left there belongs to another run.
        self._key.path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        self.errors_path.unlink(missing_ok=True)
        self._key.record(key)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raises :class:`TrainingError` if ``path`` exists and may not be replaced."""
    if path.exists() and not overwrite:
        with suppress(OutputError), claimed(path):
            _tidy(path)
        raise _taken(path)


def _taken(path: Path) -> TrainingError:
    return TrainingError(f"{path} exists; choose another name, or use --overwrite")


def _beside(path: Path) -> tuple[Path, Path]:
    """The unfinished lines, and what they are made from."""
    return path.with_name(path.name + ".partial"), path.with_name(path.name + ".partial.json")


def _tidy(path: Path) -> None:
    """Remove what a kill left of ``path``; unfinished lines are no such thing."""
    lines, key = _beside(path)
    for name in (path.name, key.name):
        remove_leftovers(path.parent, name)
    if path.exists() and not lines.exists():
        key.unlink(missing_ok=True)


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
