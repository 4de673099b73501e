"""Progress: a bar that counts, or stages in plain words; or nothing.

Work that takes long says what it is doing by a :data:`Progress`. Only commands show it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from rfprm_runtime.errors import MissingExtraError

Progress = Callable[[str, int, int], object]
"""Called with a stage in plain words (``writing layer``), the steps done and the steps to do, from
any thread."""
Step = Callable[[int, int], object]
"""The same within one stage."""
_SECONDS_BETWEEN_LINES = 10.0


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


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def stage(progress: Progress, name: str) -> Step:
    return lambda done, total: progress(name, done, total)


def counting(step: Step, total: int) -> Callable[[int], None]:
    """What calls ``step`` with how many of ``total`` are done, when it is called with how many more
    are."""
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        step(done, total)

    return advance


def progress_bar(total: int | None, unit: str, *, show: bool) -> ProgressBar:
    """A bar on stderr, if ``show``. Raises :class:`MissingExtraError` if rich is not installed."""
    return _RichBar(total, unit) if show else _Silent()


@contextmanager
def shown_stages(show: bool | None = None) -> Iterator[Progress]:
    """A :data:`Progress` that shows stages on stderr: a bar on a terminal, elsewhere a line now and
    then. ``show``: by default if stderr is a terminal.

    Raises :class:`MissingExtraError` if a bar is needed and rich is not installed.
    """
    is_terminal = sys.stderr.isatty()
    if not (is_terminal if show is None else show):
        yield silent
    elif not is_terminal:
        yield _Lines()
    else:
        bar = _StagesBar()
        try:
            yield bar
        finally:
            bar.close()


class _Lines:
    """A line at the beginning and the end of each stage, and now and then between them."""

    def __init__(self) -> None:
        self._stage, self._last = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        is_due = stage != self._stage or done == total
        if is_due or now - self._last > _SECONDS_BETWEEN_LINES:
            self._stage, self._last = stage, now
            with suppress(OSError):  # whoever listened went away; the work goes on
                print(stage if total <= 1 else f"{stage} {done} of {total}", file=sys.stderr)


class _StagesBar:
    """One bar, for the stage at hand; it leaves nothing behind."""

    def __init__(self) -> None:
        self._progress = _rich_progress("{task.description}", transient=True)
        self._task, self._stage = self._progress.add_task("", total=None), ""
        with suppress(OSError):
            self._progress.start()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            self._progress.reset(self._task, description=stage, total=total, completed=done)
        self._progress.update(self._task, total=total, completed=done)

    def close(self) -> None:
        with suppress(OSError):
            self._progress.stop()


class _RichBar:
    def __init__(self, total: int | None, unit: str) -> None:
        self._progress = _rich_progress("scoring", unit)
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


def _rich_progress(title: str, unit: str = "", *, transient: bool = False) -> Any:
    """A display on stderr that is not started yet."""
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

    return Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Stderr(stderr=True),
        transient=transient,
    )
