"""Renders a trajectory as the ordered segments of its prompt.

Knows text and the manifest's prompt; knows no token ids beyond those the manifest fixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rfprm_runtime.artifact.prompt_format import Marker, Prompt, Response, Steps, Template
from rfprm_runtime.types import Trajectory


@dataclass(frozen=True)
class UserText:
    """Text of a user or a model, encoded as plain text even where it spells a special token."""

    text: str
    step: int | None = None
    """The index of the thinking step, if it is one."""


@dataclass(frozen=True)
class MarkerSegment:
    """A marker, where a score is read. ``step`` is the step's index, None for the trajectory."""

    marker: Marker
    step: int | None


Segment = Template | UserText | MarkerSegment


def render(trajectory: Trajectory, prompt: Prompt) -> list[Segment]:
    """The segments of one trajectory, with a step marker after each step if the prompt has one."""
    return [
        *render_opening(trajectory.question, prompt),
        *render_steps(trajectory.steps, prompt),
        *render_closing(trajectory.response, prompt),
    ]


def render_opening(question: str, prompt: Prompt) -> Iterator[Segment]:
    """The segments before the first step."""
    for piece in prompt.pieces[: _index_of_steps(prompt)]:
        if isinstance(piece, Template):
            yield piece
        elif piece.kind == "question":
            yield UserText(question)


def render_steps(steps: Sequence[str], prompt: Prompt, *, after: int = 0) -> Iterator[Segment]:
    """The segments of ``steps``, before which ``after`` others came."""
    piece = prompt.pieces[_index_of_steps(prompt)]
    assert isinstance(piece, Steps)
    for index, step in enumerate(steps):
        if index + after and piece.between is not None:
            yield piece.between
        yield UserText(_labelled(step, piece.label, index + after), index)
        if prompt.step_marker is not None:
            yield MarkerSegment(prompt.step_marker, index)


def render_closing(response: Sequence[str], prompt: Prompt) -> Iterator[Segment]:
    """The segments after the last step, up to the trajectory marker if the prompt has one."""
    for piece in prompt.pieces[_index_of_steps(prompt) + 1 :]:
        if isinstance(piece, Template):
            yield piece
        elif isinstance(piece, Response):
            if response:
                if piece.before is not None:
                    yield piece.before
                yield UserText(piece.separator.join(response))
        elif prompt.trajectory_marker is not None:
            yield MarkerSegment(prompt.trajectory_marker, None)


def _labelled(step: str, label: str, index: int) -> str:
    written = label.replace("{n}", str(index + 1))
    return step if step.startswith(written) else written + step


def _index_of_steps(prompt: Prompt) -> int:
    return [piece.kind for piece in prompt.pieces].index("steps")
