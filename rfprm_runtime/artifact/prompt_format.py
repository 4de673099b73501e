"""How a PRM's prompt is put together: the pieces of ``prm.json``'s ``prompt``.

Knows text and token ids as data; runs no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rfprm_runtime.artifact.record import Record
from rfprm_runtime.errors import ManifestError

Joins = Literal["none", "before", "after", "both"]


class Template(Record):
    """Fixed text of the prompt, with its special tokens. ``ids`` are filled in at export."""

    kind: Literal["template"] = "template"
    text: str
    ids: tuple[int, ...] | None = None
    joins: Joins = "none"
    """The neighbours with which its text is encoded as one string, as a tokenizer does that gets
    the whole prompt: tokens may then cross from one to the other (``.`` and ``\\n\\n`` become one).
    Special tokens inside the template are ends of such a string."""


class Question(Record):
    kind: Literal["question"] = "question"


class Steps(Record):
    """Each thinking step, followed by the step marker if the prompt has one."""

    kind: Literal["steps"] = "steps"
    label: str = ""
    """Written before each step that does not begin with it, ``{n}`` being the step's number from 1:
    ``Step {n}: ``."""
    between: Template | None = None
    """Fixed text between two steps, after the marker of the first."""


class Response(Record):
    """The steps of the final response, joined by ``separator``; nothing if there are none."""

    kind: Literal["response"] = "response"
    separator: str = "\n"
    before: Template | None = None
    """Fixed text between the steps and the response; nothing if there is none."""


class TrajectoryMarker(Record):
    kind: Literal["trajectory_marker"] = "trajectory_marker"


Piece = Annotated[
    Template | Question | Steps | Response | TrajectoryMarker, Field(discriminator="kind")
]


class Marker(Record):
    """The tokens at the last of which a score is read."""

    token: str
    """Their text. Empty: the score is read at the last token of the text before."""
    id: int | None = Field(default=None, ge=0)
    """Of the token at which the score is read; None if ``token`` is empty."""
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Of all tokens, if ``token`` is the text of several, or of one that is not special."""

    @model_validator(mode="after")
    def _ends_with_its_id(self) -> Marker:
        if not self.token:
            if self.id is not None or self.ids:
                raise ManifestError("a marker without text has no ids; leave them out")
        elif self.id is None:
            raise ManifestError(f"marker {self.token!r} has no id, expected that of its last token")
        elif self.ids is not None and (not self.ids or self.ids[-1] != self.id):
            raise ManifestError(
                f"marker {self.token!r} has ids {list(self.ids)}, expected them to end with its id "
                f"{self.id}, at which the score is read"
            )
        return self

    @property
    def all_ids(self) -> tuple[int, ...]:
        if self.ids is not None:
            return self.ids
        return () if self.id is None else (self.id,)


class Prompt(Record):
    """The order of the pieces of an encoded trajectory."""

    pieces: tuple[Piece, ...]
    step_marker: Marker | None = None
    """None for a reward model that gives one number for a whole sequence."""
    trajectory_marker: Marker | None = None
    strips: bool = False
    """Whether white space around each text of the trajectory is dropped, as some chat templates
    do. Texts that are encoded as one string are one text."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Prompt:
        kinds = [piece.kind for piece in self.pieces]
        for kind in ("question", "steps"):
            if kinds.count(kind) != 1:
                raise ManifestError(
                    f"the prompt has {kinds.count(kind)} '{kind}' pieces, expected 1"
                )
        after = [kinds.index(kind) for kind in ("response", "trajectory_marker") if kind in kinds]
        if not kinds.index("question") < kinds.index("steps") < min(after, default=len(kinds)):
            raise ManifestError(
                f"the pieces of the prompt are {kinds}, expected the question before the steps, "
                "the response and the trajectory_marker after them: a score can only rest on what "
                "comes before its marker"
            )
        if kinds.count("trajectory_marker") != (self.trajectory_marker is not None):
            raise ManifestError(
                "the prompt must hold one 'trajectory_marker' piece exactly when it names the "
                "trajectory marker's token"
            )
        if self.step_marker is None and self.trajectory_marker is None:
            raise ManifestError(
                "the prompt has neither a step_marker nor a trajectory_marker; a score is read at "
                "one of them"
            )
        return self

    @property
    def markers(self) -> list[Marker]:
        """The step marker and the trajectory marker, as far as there are any."""
        markers = (self.step_marker, self.trajectory_marker)
        return [marker for marker in markers if marker is not None]

    def templates(self) -> Iterator[Template]:
        """All fixed texts, those inside of other pieces too."""
        for piece in self.pieces:
            inner = (
                piece
                if isinstance(piece, Template)
                else piece.between
                if isinstance(piece, Steps)
                else piece.before
                if isinstance(piece, Response)
                else None
            )
            if inner is not None:
                yield inner
