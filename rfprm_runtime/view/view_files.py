"""Turns scored files into a page of their traces; the page appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rfprm_runtime.errors import InvalidArgumentError, RfprmError
from rfprm_runtime.ground.arguments import check_whole
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.whole_files import check_target, replacing
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.sources import count_rows
from rfprm_runtime.traces.tally import Tally
from rfprm_runtime.view.page import BadRow, PageContent, PlacedTrace, page_html
from rfprm_runtime.view.scored_rows import ScoredTrace, read_scored_rows

DEFAULT_LIMIT = 5_000
MAX_CHARACTERS = 200_000_000
"""Browsers hold about twice this in the text of one element, and no more."""
_MAX_BAD_ROWS_LISTED = 1_000


@dataclass
class ViewSummary:
    """What became of the rows of all files."""

    num_shown: int = 0
    num_bad: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    """The first bad rows."""
    tally: Tally = field(default_factory=Tally)
    """Which fields the traces were read from."""
    notes: list[str] = field(default_factory=list)
    """What was left out, one sentence each."""


def view_files(
    scored: Sequence[str | Path],
    output: str | Path,
    *,
    prefix: str = "",
    limit: int = DEFAULT_LIMIT,
    names: FieldNames | None = None,
) -> ViewSummary:
    """Write a page ``output`` with the first ``limit`` traces of each file in ``scored``.

    ``names``: the fields of the traces, where they were named for scoring.

    Raises :class:`RfprmError` if nothing can be shown, the page would be too large for a browser,
    or ``output`` is an input; ``OSError`` if a file cannot be read or written; ``ValueError`` for a
    limit below 1, or if ``scored`` is not a list of files.
    """
    check_whole("limit", limit)
    if isinstance(scored, (str, Path)) or not scored:
        raise InvalidArgumentError(
            f"scored is {str(scored)!r}, expected a list of one or more files: ['scored.jsonl']"
        )
    paths, output = [Path(path) for path in scored], Path(output)
    check_target(output, reads=paths)
    gathered = _Gathered(_short_names(paths))
    for index, path in enumerate(paths):
        _gather(path, index, gathered, prefix, limit, names)
    traces, summary = gathered.traces, gathered.summary
    summary.num_shown = len(traces)
    if not traces:
        raise RfprmError(_why_nothing(gathered.names, summary))
    content = PageContent(gathered.names, traces, summary.bad_rows, summary.num_bad, summary.notes)
    with claimed(output), replacing(output) as file:
        file.writelines(page_html(content))
    return summary


@dataclass
class _Gathered:
    names: list[str]
    traces: list[PlacedTrace] = field(default_factory=list)
    num_characters: int = 0
    summary: ViewSummary = field(default_factory=ViewSummary)

    def add(self, placed: PlacedTrace, num_of_file: int) -> None:
        self.num_characters += _size(placed.trace)
        if self.num_characters > MAX_CHARACTERS:
            raise RfprmError(
                f"the first {len(self.traces):,} traces hold {MAX_CHARACTERS:,} characters, the "
                f"most a browser can show; show fewer: --limit {max(1, num_of_file // 2)}"
            )
        self.traces.append(placed)

    def add_bad(self, row: BadRow) -> None:
        self.summary.num_bad += 1
        if self.summary.num_bad <= _MAX_BAD_ROWS_LISTED:
            self.summary.bad_rows.append(row)


def _gather(
    path: Path,
    index: int,
    gathered: _Gathered,
    prefix: str,
    limit: int,
    fields: FieldNames | None,
) -> None:
    """Take the first ``limit`` traces of one file, and record bad rows and rows left out."""
    num_read = num_taken = 0
    name = gathered.names[index]
    for row in read_scored_rows(path, prefix=prefix, names=fields):
        num_read += 1
        if isinstance(row.found, ScoredTrace):
            gathered.add(PlacedTrace(index, row.record.place.number, row.found), num_taken)
            num_taken += 1
            gathered.summary.tally.readings[row.found.read_from] += 1
        else:
            place = (
                f"row {row.record.place.number}"
                if len(gathered.names) == 1
                else f"{name}, row {row.record.place.number}"
            )
            gathered.add_bad(BadRow(place, str(row.found)))
        if num_taken == limit:
            break
    if num_taken == limit and (num_left := count_rows(str(path)) - num_read):
        gathered.summary.notes.append(
            f"{name}: only the first {num_taken:,} traces are shown; {num_left:,} more rows are "
            "left out (--limit)"
        )


def _size(trace: ScoredTrace) -> int:
    texts = (trace.question, trace.other_fields, *trace.steps, *trace.response)
    return sum(map(len, texts)) + 20 * len(trace.step_scores)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """File names, with the folders needed to tell them apart."""
    names = [path.name for path in paths]
    if len(set(names)) == len(names):
        return names
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise RfprmError("the same file is named twice; name each file once")
    common = os.path.commonpath(resolved)
    return [path.relative_to(common).as_posix() for path in resolved]


def _why_nothing(names: Sequence[str], summary: ViewSummary) -> str:
    what = ", ".join(names)
    if not summary.num_bad:
        return f"{what} has no rows; expected what rfprm score writes"
    first = summary.bad_rows[0]
    return (
        f"none of the {summary.num_bad:,} rows of {what} can be shown; "
        f"{first.place}: {first.reason}"
    )
