"""One row of a source: its place, its fields, and the trajectory in it.

Errors ride along: a record that could not be read carries its error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.candidates import Candidates, candidates_of
from rfprm_runtime.traces.formats import (
    Parts,
    Reading,
    build_trajectory,
    described,
    fields_read,
    is_canonical,
    read_parts,
    read_trajectory,
)
from rfprm_runtime.traces.layouts import unwrapped
from rfprm_runtime.traces.present import present
from rfprm_runtime.traces.questions import read_question
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
    """Which of the row's outputs, from 0; None if the row holds one trace."""

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
        """The fields that hold something."""
        return present(self.fields)

    @cached_property
    def candidates(self) -> Candidates | None:
        """The outputs of the row, if it lists them: one or several."""
        return candidates_of(self.fields, self.reading.names)

    @cached_property
    def own(self) -> dict[str, Any]:
        """The fields about this trace: in a row of several outputs, those of one."""
        index = self.place.generation
        if index is None or self.candidates is None:
            return self.fields
        return self.candidates.row(index)

    @cached_property
    def parts(self) -> Parts | InvalidTrajectoryError:
        """Question, steps and response as they stand in the row, or why they cannot be found."""
        if self.error is not None:
            return self.error
        listed = None if self.place.generation is None else self.candidates
        output = None if listed is None else listed.path
        try:
            return read_parts(self.own, self.reading, output=output)
        except InvalidTrajectoryError as error:
            return error

    @property
    def read_from(self) -> str | None:
        """The fields of question and trace in words; None if they were not found."""
        if is_canonical(self.fields):
            return described(fields_read(self.fields))
        return (
            None
            if isinstance(self.parts, InvalidTrajectoryError)
            else described(self.parts.read_from)
        )

    @cached_property
    def trajectory(self) -> Trajectory | InvalidTrajectoryError:
        """The trajectory, or why there is none. Read and validated once, when first asked for."""
        source, generation = self.place.source, self.place.generation
        try:
            if self.reading.with_outcome and is_canonical(self.fields):
                return read_trajectory(self.fields, self.reading, source=source)
            if isinstance(self.parts, InvalidTrajectoryError):
                return self.parts
            return build_trajectory(
                self.own, self.parts, self.reading, source=source, generation=generation
            )
        except InvalidTrajectoryError as error:
            return error

    @property
    def question(self) -> str | InvalidTrajectoryError:
        """The question, whether or not the record holds a trace."""
        if self.error is not None:
            return self.error
        try:
            question, _ = read_question(self.own, unwrapped(self.own), self.reading.names)
        except InvalidTrajectoryError as error:
            return error
        is_text = isinstance(question, str) and bool(question.strip())
        return question if is_text else InvalidTrajectoryError("the question is not a text")

    def each(self) -> Sequence[Record]:
        """A record for each trace of the row: one, or one for each of its outputs."""
        if self.error is not None or self.candidates is None:
            return [self]
        return [self.generation(index) for index in range(len(self.candidates.outputs))]

    def generation(self, index: int) -> Record:
        """The record of one of the row's outputs."""
        one = replace(self, place=self.place._replace(generation=index))
        one.__dict__["candidates"] = self.candidates  # a row may hold thousands: sorted out once
        return one
