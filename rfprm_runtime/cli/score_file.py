"""Scores a file or data set into a JSONL file, in bounded memory.

The output appears whole or not at all, and every row keeps its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from rfprm_runtime.cli.scored_lines import FileSummary, check_outputs, scored_lines
from rfprm_runtime.ground.arguments import check_whole
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.progress import progress_bar
from rfprm_runtime.scorer import Scorer, check_has_step_scores
from rfprm_runtime.traces.added_fields import (
    FIRST_ERROR,
    SCORE_FIELDS,
    WINDOWED_FROM,
    values_of,
)
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import open_stream
from rfprm_runtime.types import Overflow, TrajectoryScore, windows_of

# Enough traces at once to keep every core busy and to balance long and short ones.
_CHUNK_TRACES = 256


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
    first_error: bool = False,
    show_progress_bar: bool = False,
) -> FileSummary:
    """Score the traces of a source into the JSONL file ``output``, in order.

    ``traces`` is a file (see :func:`~rfprm_runtime.traces.sources.open_source`), ``-`` for standard
    input, or ``hf://NAME[@CONFIG][:SPLIT]``, which is streamed. Every row keeps its fields and gets
    ``step_scores``, ``trajectory_score`` and ``reward``, and with windows (``overflow``) also
    ``windowed_from``; ``prefix`` goes before these names. A row of several outputs is written once
    for each, with its index as ``generation``. Rows that cannot be scored are listed with number
    and reason in ``OUTPUT.errors.jsonl``, which exists only if there are any. A missing output
    folder is created.

    ``names``: the fields to read; by default they are found by their names. ``limit``: how many
    rows to read, from the first. ``first_error``: also write what :meth:`Scorer.first_error` says.

    Raises :class:`RfprmError` if output and input are the same file, the input is missing or has
    another format or changes during the run, a row holds a value that JSON cannot, or another run
    is writing ``output``; ``OSError`` if a file cannot be read or written.
    """
    source = str(traces)
    check_outputs(source, output, "rfprm score")
    if first_error:
        check_has_step_scores(scorer)
    added = (
        *SCORE_FIELDS,
        *([WINDOWED_FROM] if windows_of(overflow) else ()),
        *([FIRST_ERROR] if first_error else ()),
    )
    reading = Reading(split, with_outcome=False, names=names or FieldNames())
    if limit is not None:
        check_whole("limit", limit)
    with (
        closing(open_stream(source)) as stream,
        scored_lines(output, added, prefix) as lines,
        closing(progress_bar(None, "traces", show=show_progress_bar)) as bar,
    ):
        num_read = 0
        for records in _chunks(islice(stream.records(reading), limit)):
            num_read += len(records)
            # Assume that the remaining rows have the same size; the final number is exact.
            share = stream.share_read() if limit is None else None
            bar.expect(None if share is None else round(num_read / share))
            results = scorer.score_batch(
                list(map(lines.to_score, records)),
                overflow=overflow,
                on_error="return",
                on_scored=bar.advance,
            )
            for record, result in zip(records, results, strict=True):
                if isinstance(result, TrajectoryScore):
                    where = {FIRST_ERROR: scorer.first_error(result)} if first_error else {}
                    lines.write(record, {**values_of(result), **where})
                    lines.count(record, result)
                else:
                    bar.advance(1)
                    lines.fail(record, result)
        stream.check_unchanged()
        bar.expect(num_read)
    return lines.summary


def _chunks(rows: Iterable[Record]) -> Iterator[list[Record]]:
    """The traces of all rows, a chunk at a time."""
    iterator = (trace for row in rows for trace in row.each())
    while chunk := list(islice(iterator, _CHUNK_TRACES)):
        yield chunk
