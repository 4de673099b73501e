"""A progress bar that counts work done, or nothing at all."""

from __future__ import annotations

from typing import Protocol

from rfprm_runtime.errors import MissingExtraError


class ProgressBar(Protocol):
    def advance(self, amount: int) -> None: ...
    def close(self) -> None: ...


class _Silent:
    def advance(self, amount: int) -> None:
        pass

    def close(self) -> None:
        pass


def progress_bar(total: int | None, unit: str, *, show: bool) -> ProgressBar:
    """A bar on stderr. Raises :class:`MissingExtraError` where rich is not installed."""
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
        self._progress = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def close(self) -> None:
        self._progress.stop()
