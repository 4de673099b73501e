"""From a trajectory to the ordered segments of its prompt.

Knows the manifest's prompt and text; nothing of token ids beyond the ones the manifest fixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rfprm_runtime.artifact.manifest import Marker, Prompt, Response, Template
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
    return [
        *render_opening(trajectory.question, prompt),
        *render_steps(trajectory.steps, prompt),
        *render_closing(trajectory.response, prompt),
    ]


def render_opening(question: str, prompt: Prompt) -> Iterator[Segment]:
    """What comes before the first step."""
    for piece in prompt.pieces[: _place_of_steps(prompt)]:
        if isinstance(piece, Template):
            yield piece
        elif piece.kind == "question":
            yield UserText(question)


def render_steps(steps: Sequence[str], prompt: Prompt) -> Iterator[Segment]:
    for index, step in enumerate(steps):
        yield UserText(step, index)
        yield MarkerSegment(prompt.step_marker, index)


def render_closing(response: Sequence[str], prompt: Prompt) -> Iterator[Segment]:
    """What comes after the last step, to the trajectory marker where the prompt has one."""
    for piece in prompt.pieces[_place_of_steps(prompt) + 1 :]:
        if isinstance(piece, Template):
            yield piece
        elif isinstance(piece, Response):
            if response:
                yield UserText(piece.separator.join(response))
        elif prompt.trajectory_marker is not None:
            yield MarkerSegment(prompt.trajectory_marker, None)


def _place_of_steps(prompt: Prompt) -> int:
    return [piece.kind for piece in prompt.pieces].index("steps")
