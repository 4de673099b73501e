"""From a trajectory to the ordered segments of its prompt.

Knows the manifest's prompt and text; nothing of token ids beyond the ones the manifest fixes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rfprm_runtime.manifest import Marker, Prompt, Response, Template
from rfprm_runtime.types import Trajectory


@dataclass(frozen=True)
class UserText:
    """Text that somebody wrote: encoded as plain text, whatever special token it spells."""

    text: str
    step: int | None = None
    """The index of the thinking step that it is, if it is one."""


@dataclass(frozen=True)
class MarkerSegment:
    """A place where a score is read. ``step`` is the step's index, None for the trajectory."""

    marker: Marker
    step: int | None


Segment = Template | UserText | MarkerSegment


def render(trajectory: Trajectory, prompt: Prompt) -> list[Segment]:
    """The segments of one trajectory; one step marker for each step, in order."""
    return list(_segments(trajectory, prompt))


def _segments(trajectory: Trajectory, prompt: Prompt) -> Iterator[Segment]:
    for piece in prompt.pieces:
        if isinstance(piece, Template):
            yield piece
        elif piece.kind == "question":
            yield UserText(trajectory.question)
        elif piece.kind == "steps":
            for index, step in enumerate(trajectory.steps):
                yield UserText(step, index)
                yield MarkerSegment(prompt.step_marker, index)
        elif isinstance(piece, Response):
            if trajectory.response:
                yield UserText(piece.separator.join(trajectory.response))
        elif prompt.trajectory_marker is not None:
            yield MarkerSegment(prompt.trajectory_marker, None)
