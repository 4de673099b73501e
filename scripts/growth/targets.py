"""The table of what is measured. An entry is a call, and what it is given for a text.

Only the call is timed. ``runtime_targets`` and ``training_targets`` fill the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rfprm_runtime import Trajectory

Call = Callable[[], object]
TARGETS: dict[str, Callable[[str], Call]] = {}
"""By name, what prepares the call for a text."""


def measure(
    name: str, call: Callable[[Any], object], given: Callable[[str], Any] = lambda text: text
) -> None:
    """Add a call; it gets what ``given`` makes of the text."""
    assert name not in TARGETS, name

    def prepared(text: str) -> Call:
        argument = given(text)
        return lambda: call(argument)

    TARGETS[name] = prepared


def measure_all(module: Any, *names: str) -> None:
    """Add functions of one text."""
    for name in names:
        measure(f"{module.__name__}:{name}", getattr(module, name))


def pieces(text: str) -> list[str]:
    """A text as a list of steps: its lines, or its words if it has one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else text.split() or ["a"]


def clean(text: str) -> str:
    """Without lone surrogates, which a trajectory refuses."""
    return text.encode("utf-8", "replace").decode()


def trajectory(text: str) -> Trajectory:
    """Half of the pieces are steps, half are the response."""
    steps = [piece for piece in pieces(clean(text)) if piece.strip()]
    half = max(1, len(steps) // 2)
    question = clean(text).strip() or "q"
    return Trajectory(question=question, steps=steps[:half], response=steps[half:])
