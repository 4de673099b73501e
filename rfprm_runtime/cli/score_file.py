"""Scores a file or data set into a JSONL file, in bounded memory.

The output appears whole or not at all, and every row keeps its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Literal

from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError
from rfprm_runtime.ground.arguments import check_whole
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.progress import progress_bar
from rfprm_runtime.ground.whole_files import check_target, errors_path_of, replacing
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.traces.added_fields import (
    GENERATION,
    SCORE_FIELDS,
    WINDOWED_FROM,
    first_taken,
    prefixed,
    values_of,
)
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.jsonl import json_line
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.sources import open_stream
from rfprm_runtime.traces.tally import Tally
from rfprm_runtime.types import Overflow, Trajectory, TrajectoryScore

# Enough traces at once to keep every core busy and to balance long and short ones.
_CHUNK_TRACES = 256
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


def score_file(
    scorer: Scorer,
    traces: str | Path,
    output: Path,
    *,
    split: SplitRule = "blank_lines",
    overflow: Overflow = "error",
    prefix: str = "",
    names: FieldNames | None = None,
    limit: int | None = None,
    show_progress_bar: bool = False,
) -> FileSummary:
    """Score the traces of a source into the JSONL file ``output``, in order.

    ``traces`` is a file (see :func:`~rfprm_runtime.traces.sources.open_source`), ``-`` for standard
    input, or ``hf://NAME[@CONFIG][:SPLIT]``, which is streamed. Every row keeps its fields and gets
    ``step_scores``, ``trajectory_score`` and ``reward``, and with ``overflow="window"`` also
    ``windowed_from``; ``prefix`` goes before these names. A row of several outputs is written once
    for each, with its index as ``generation``. Rows that cannot be scored are listed with number
    and reason in ``OUTPUT.errors.jsonl``, which exists only if there are any. A missing output
    folder is created.

    ``names``: the fields to read; by default they are found by their names. ``limit``: how many
    rows to read, from the first.

    Raises :class:`RfprmError` if output and input are the same file, the input is missing or has
    another format or changes during the run, a row holds a value that JSON cannot, or another run
    is writing ``output``; ``OSError`` if a file cannot be read or written.
    """
    source = str(traces)
    if output.suffix.lower() in _OTHER_FORMATS:
        raise RfprmError(
            f"the output is {output.name}, but rfprm score writes JSONL: name it "
            f"{output.with_suffix('.jsonl').name}, or let rfprm select write Parquet"
        )
    check_target(output, reads=[Path(source)])
    summary = FileSummary(errors_path=errors_path_of(output))
    check_target(summary.errors_path, reads=[Path(source)])
    values = (*SCORE_FIELDS, WINDOWED_FROM) if overflow == "window" else SCORE_FIELDS
    added = prefixed(values, prefix)
    reading = Reading(split, with_outcome=False, names=names or FieldNames())
    if limit is not None:
        check_whole("limit", limit)
    with ExitStack() as stack:
        stream = stack.enter_context(closing(open_stream(source)))
        stack.enter_context(claimed(output))
        scored_file = stack.enter_context(replacing(output))
        errors_file = stack.enter_context(replacing(summary.errors_path))
        bar = stack.enter_context(closing(progress_bar(None, "traces", show=show_progress_bar)))
        num_read = 0
        for records in _chunks(islice(stream.records(reading), limit)):
            num_read += len(records)
            # Assume that the remaining rows have the same size; the final number is exact.
            share = stream.share_read() if limit is None else None
            bar.expect(None if share is None else round(num_read / share))
            results = scorer.score_batch(
                [_to_score(record, added.values(), prefix) for record in records],
                overflow=overflow,
                on_error="return",
                on_scored=bar.advance,
            )
            for record, result in zip(records, results, strict=True):
                if isinstance(result, TrajectoryScore):
                    scored_file.write(_line(record, result, added, prefix))
                    _record_success(summary, record)
                else:
                    bar.advance(1)
                    _record_failure(summary, errors_file, record.place, result)
            stream.check_unchanged()
        bar.expect(num_read)
    if not summary.num_failed:
        summary.errors_path.unlink()
    return summary


def _to_score(
    record: Record, added: Iterable[str], prefix: str
) -> Trajectory | InvalidTrajectoryError:
    """The trace to score, or an error if the scores would overwrite a field of the row."""
    names = added if record.place.generation is None else [*added, prefix + GENERATION]
    taken = first_taken(record.fields, names)
    if taken is None or isinstance(record.trajectory, InvalidTrajectoryError):
        return record.trajectory
    return InvalidTrajectoryError(f"already has the field {taken!r}; choose a --prefix")


def _line(record: Record, score: TrajectoryScore, added: dict[str, str], prefix: str) -> str:
    values = values_of(score)
    scores = {added[name]: values[name] for name in added}
    if record.place.generation is not None:
        scores[prefix + GENERATION] = record.place.generation
    try:
        return json_line({**record.fields, **scores})
    except TypeError as error:
        raise RfprmError(
            f"{record.place} cannot be written as JSON: {error}; rfprm select can write Parquet, "
            "which keeps such values"
        ) from None


def _record_success(summary: FileSummary, record: Record) -> None:
    summary.num_scored += 1
    if isinstance(record.trajectory, Trajectory):
        summary.tally.count(record, record.trajectory)


def _record_failure(summary: FileSummary, file: IO[str], place: Place, error: RfprmError) -> None:
    which = {} if place.generation is None else {GENERATION: place.generation}
    file.write(json_line({place.unit: place.number, **which, "error": str(error)}))
    summary.unit = place.unit
    summary.num_failed += 1
    if len(summary.first_errors) < _MAX_FIRST_ERRORS:
        summary.first_errors.append(f"{place.in_source}: {error}")


def _chunks(rows: Iterable[Record]) -> Iterator[list[Record]]:
    """The traces of all rows, a chunk at a time."""
    iterator = (trace for row in rows for trace in row.each())
    while chunk := list(islice(iterator, _CHUNK_TRACES)):
        yield chunk
