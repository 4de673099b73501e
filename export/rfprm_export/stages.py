"""What a long piece of work is doing. Whoever wants to know passes a function; nothing is printed
here."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], object]
"""Called with a stage in plain words (``writing layer``), the steps done and the steps to do. It
may be called from other threads."""
Step = Callable[[int, int], object]
"""The same within one stage."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def stage(progress: Progress, name: str) -> Step:
    return lambda done, total: progress(name, done, total)


def counting(step: Step, total: int) -> Callable[[int], None]:
    """Call ``step`` with how many of ``total`` are done, each time some more are."""
    done = 0

    def advance(amount: int) -> None:
        nonlocal done
        done += amount
        step(done, total)

    return advance
