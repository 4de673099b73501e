"""A progress bar, or a stand-in that shows nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from rfprm_runtime.errors import MissingExtraError


class ProgressBar(Protocol):
    def expect(self, total: int | None) -> None: ...
    def advance(self, amount: int) -> None: ...
    def close(self) -> None: ...


class _Silent:
    def expect(self, total: int | None) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass

    def close(self) -> None:
        pass


def progress_bar(total: int | None, unit: str, *, show: bool) -> ProgressBar:
    """A bar on stderr, if ``show``. Raises :class:`MissingExtraError` if rich is not installed."""
    return _RichBar(total, unit) if show else _Silent()


class _RichBar:
    def __init__(self, total: int | None, unit: str) -> None:
        try:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
        except ImportError:
            raise MissingExtraError("rich", "cli", "a progress bar") from None

        class Stderr(Console):
            def on_broken_pipe(self) -> None:  # rich's own would end the program
                self.quiet = True

        self._progress = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Stderr(stderr=True),
        )
        self._task = self._progress.add_task("", total=total)
        with suppress(OSError):
            self._progress.start()

    def expect(self, total: int | None) -> None:
        self._progress.update(self._task, total=total)

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def close(self) -> None:
        # A terminal that went away is no reason to lose the scores.
        with suppress(OSError):
            self._progress.stop()
