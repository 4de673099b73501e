"""JSON lines with scores: every row keeps its fields, and rows that failed are listed beside.

Both files appear whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.whole_files import check_target, errors_path_of, replacing
from rfprm_runtime.traces.added_fields import GENERATION, first_taken, prefixed
from rfprm_runtime.traces.jsonl import json_line
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.tally import Tally
from rfprm_runtime.types import Trajectory, TrajectoryScore

_OTHER_FORMATS = (".parquet", ".arrow", ".csv", ".tsv")
_MAX_FIRST_ERRORS = 10


@dataclass
class FileSummary:
    """What became of the rows of a source."""

    errors_path: Path
    num_scored: int = 0
    num_failed: int = 0
    first_errors: list[str] = field(default_factory=list)
    unit: Literal["line", "row"] = "line"
    """What to call a row of the source."""
    tally: Tally = field(default_factory=Tally)
    """Which fields the scored traces were read from."""
    num_windowed: int = 0
    num_windowed_tokens: int = 0
    num_run_tokens: int = 0
    """The scored traces that were too long, their tokens, and the tokens that windows ran."""

    def about_windows(self) -> list[str]:
        """What windows cost, as a sentence; none if there were none."""
        if not self.num_windowed:
            return []
        factor = self.num_run_tokens / self.num_windowed_tokens
        return [
            f"{self.num_windowed:,} of them longer than the model's positions and scored in "
            f"windows, which ran {factor:.2f} times their tokens"
        ]


@dataclass(frozen=True)
class ScoredLines:
    """The open files, and what was written to them."""

    summary: FileSummary
    _added: Mapping[str, str]
    _prefix: str
    _scored: IO[str]
    _errors: IO[str]

    def to_score(self, record: Record) -> Trajectory | InvalidTrajectoryError:
        """The trace to score, or an error if what is added would overwrite a field of its row."""
        names = [*self._added.values()]
        if record.place.generation is not None:
            names.append(self._prefix + GENERATION)
        taken = first_taken(record.fields, names)
        if taken is None or isinstance(record.trajectory, InvalidTrajectoryError):
            return record.trajectory
        return InvalidTrajectoryError(f"already has the field {taken!r}; choose a --prefix")

    def write(self, record: Record, values: Mapping[str, Any]) -> None:
        """Write a row. ``values``: all that may be added, by their own names."""
        added = {name: values[own] for own, name in self._added.items()}
        if record.place.generation is not None:
            added[self._prefix + GENERATION] = record.place.generation
        try:
            self._scored.write(json_line({**record.fields, **added}))
        except TypeError as error:
            raise RfprmError(
                f"{record.place} cannot be written as JSON: {error}; rfprm select can write "
                "Parquet, which keeps such values"
            ) from None

    def count(self, record: Record, score: TrajectoryScore) -> None:
        """Count a trace that was scored, whether or not it is written."""
        self.summary.num_scored += 1
        if score.windowed_from is not None:
            self.summary.num_windowed += 1
            self.summary.num_windowed_tokens += score.num_tokens
            self.summary.num_run_tokens += score.num_run_tokens or 0
        if isinstance(record.trajectory, Trajectory):
            self.summary.tally.count(record, record.trajectory)

    def fail(self, record: Record, error: RfprmError) -> None:
        """List a trace that could not be scored."""
        place, summary = record.place, self.summary
        which = {} if place.generation is None else {GENERATION: place.generation}
        self._errors.write(json_line({place.unit: place.number, **which, "error": str(error)}))
        summary.unit = place.unit
        summary.num_failed += 1
        if len(summary.first_errors) < _MAX_FIRST_ERRORS:
            summary.first_errors.append(f"{place.in_source}: {error}")


def check_outputs(source: str, output: Path, command: str) -> None:
    """Check, before the input is opened, that both files can be written.

    Raises :class:`RfprmError`: another format than JSONL, the input itself, a folder.
    """
    if output.suffix.lower() in _OTHER_FORMATS:
        raise RfprmError(
            f"the output is {output.name}, but {command} writes JSONL: name it "
            f"{output.with_suffix('.jsonl').name}, or let rfprm select write Parquet"
        )
    for path in (output, errors_path_of(output)):
        check_target(path, reads=[Path(source)])


@contextmanager
def scored_lines(output: Path, names: tuple[str, ...], prefix: str) -> Iterator[ScoredLines]:
    """Write ``output`` and, if anything fails, ``OUTPUT.errors.jsonl``.

    ``names``: the fields to add to a row, which get ``prefix``.
    """
    summary = FileSummary(errors_path_of(output))
    with claimed(output):
        with replacing(output) as scored, replacing(summary.errors_path) as errors:
            yield ScoredLines(summary, prefixed(names, prefix), prefix, scored, errors)
        if not summary.num_failed:
            summary.errors_path.unlink()
