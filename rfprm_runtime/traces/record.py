"""One row of a source: its place, its fields, and the trajectory in it.

Errors ride along: a record that could not be read carries its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.formats import (
    Generations,
    Reading,
    question_of,
    read_trajectory,
)
from rfprm_runtime.types import Trajectory


class Place(NamedTuple):
    """Where a record comes from, as messages say it."""

    source: str
    """A file's name without its folder, or ``hf://NAME``."""
    unit: Literal["line", "row"]
    """Lines of JSONL, rows of a table."""
    number: int
    """From 1. Blank lines count too."""
    generation: int | None = None
    """Which of the row's generations, from 0; None if the row holds one trace."""

    def __str__(self) -> str:
        return f"{self.source}, {self.in_source}"

    @property
    def in_source(self) -> str:
        """The place without the source, for messages that name the source themselves."""
        generation = "" if self.generation is None else f", generation {self.generation}"
        return f"{self.unit} {self.number}{generation}"

    @property
    def row(self) -> int:
        """The number from 0."""
        return self.number - 1


@dataclass(frozen=True)
class Record:
    """One row of a source, or one of the generations in it."""

    place: Place
    fields: dict[str, Any]
    """The whole row, as in the source; empty if it could not be read."""
    error: InvalidTrajectoryError | None = None
    """Why the row has no fields, or no trace in them."""
    reading: Reading = field(default_factory=Reading)
    whole: Record | None = field(default=None, repr=False, compare=False)
    """The record of the whole row, if this is one of its generations."""

    @classmethod
    def of_row(
        cls, place: Place, row: dict[str, Any] | InvalidTrajectoryError, reading: Reading
    ) -> Record:
        """``row``: its fields, or why it has none."""
        if isinstance(row, InvalidTrajectoryError):
            return cls(place, {}, row, reading)
        return cls(place, row, None, reading)

    @cached_property
    def present(self) -> dict[str, Any]:
        """The fields that are not empty."""
        if self.whole is not None:
            return self.whole.present
        if self.place.unit == "line":
            return self.fields
        # Every row of a table has every column, so an empty one counts as absent.
        return {name: value for name, value in self.fields.items() if value is not None}

    @cached_property
    def own(self) -> dict[str, Any]:
        """The fields about this trace: in a row of several generations, those of one."""
        if self.place.generation is None:
            return self.present
        generations = (self.whole or self)._generations
        if isinstance(generations, InvalidTrajectoryError):
            raise generations.with_traceback(None)
        return generations.fields(self.place.generation)

    @cached_property
    def _generations(self) -> Generations | InvalidTrajectoryError:
        try:
            return Generations.of(self.present)
        except InvalidTrajectoryError as error:
            return error

    @cached_property
    def trajectory(self) -> Trajectory | InvalidTrajectoryError:
        """The trajectory, or why there is none. Read and validated once, when first asked for."""
        if self.error is not None:
            return self.error
        source, generation = self.place.source, self.place.generation
        try:
            return read_trajectory(self.own, self.reading, source=source, generation=generation)
        except InvalidTrajectoryError as error:
            return error

    @property
    def question(self) -> str | InvalidTrajectoryError:
        """The question, whether or not the record holds a trace."""
        if self.error is not None:
            return self.error
        try:
            question = question_of(self.own)
        except InvalidTrajectoryError as error:
            return error
        is_text = isinstance(question, str) and bool(question.strip())
        return question if is_text else InvalidTrajectoryError("the question is not a text")

    def each(self) -> Sequence[Record]:
        """A record for each trace of the row: one, or one for each of its generations."""
        generations = self.own.get("generations")
        if self.error is not None or not isinstance(generations, list):
            return [self]
        if not generations:
            return [replace(self, error=InvalidTrajectoryError("its 'generations' are empty"))]
        return [self.generation(index) for index in range(len(generations))]

    def generation(self, index: int) -> Record:
        """The record of one of the row's generations."""
        return replace(self, place=self.place._replace(generation=index), whole=self)
