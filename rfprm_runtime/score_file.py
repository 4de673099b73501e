"""Scores a JSONL file into another one, in bounded memory.

The output appears whole or not at all; what every line held is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError
from rfprm_runtime.parsing import SplitRule
from rfprm_runtime.progress import progress_bar
from rfprm_runtime.records import Line, json_line, read_lines
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import Overflow, TrajectoryScore
from rfprm_runtime.whole_files import check_target, errors_path_of, replacing

ADDED_FIELDS = ("step_scores", "trajectory_score", "reward")
WINDOW_FIELDS = ("windowed_from",)
# Enough traces at once to keep every core busy and to share out long and short ones.
_CHUNK_TRACES = 256
_MAX_ERRORS_TOLD = 10


@dataclass
class FileSummary:
    """What became of the lines of a file."""

    errors_path: Path
    num_scored: int = 0
    num_failed: int = 0
    first_errors: list[str] = field(default_factory=list)


def score_file(
    scorer: Scorer,
    traces: Path,
    output: Path,
    *,
    split: SplitRule = "blank_lines",
    overflow: Overflow = "error",
    prefix: str = "",
    show_progress_bar: bool = False,
) -> FileSummary:
    """Score the traces of ``traces`` into ``output``, in order (see ``records`` for the fields).

    Every input field is kept; ``step_scores``, ``trajectory_score`` and ``reward`` are added,
    with ``prefix`` before their names, and with ``overflow="window"`` ``windowed_from`` too.
    A line that cannot be scored goes, with its number and the reason, to
    ``OUTPUT.errors.jsonl``, a file that is there only when such lines are. The output's folder is
    made where it is missing.

    Raises :class:`RfprmError` where output and input are the same file, ``OSError`` where a file
    cannot be read or written.
    """
    check_target(output, reads=[traces])
    summary = FileSummary(errors_path=errors_path_of(output))
    check_target(summary.errors_path, reads=[traces])
    names = ADDED_FIELDS + (WINDOW_FIELDS if overflow == "window" else ())
    added = {name: prefix + name for name in names}
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scored_file = stack.enter_context(replacing(output))
        errors_file = stack.enter_context(replacing(summary.errors_path))
        total = _count_lines(traces) if show_progress_bar else None
        bar = stack.enter_context(closing(progress_bar(total, "traces", show=show_progress_bar)))
        for chunk in _chunks(read_lines(traces, split=split)):
            lines = [_without_collision(line, added) for line in chunk]
            scores = scorer.score_batch(
                [line.trajectory for line in lines],
                overflow=overflow,
                on_error="return",
                on_scored=bar.advance,
            )
            for line, result in zip(lines, scores, strict=True):
                if isinstance(result, TrajectoryScore):
                    scored_file.write(
                        json_line({**(line.fields or {}), **_fields_of(result, added)})
                    )
                    summary.num_scored += 1
                else:
                    bar.advance(1)
                    _note_failure(summary, errors_file, line.number, result)
    if not summary.num_failed:
        summary.errors_path.unlink()
    return summary


def _without_collision(line: Line, added: dict[str, str]) -> Line:
    """A line whose fields the scores would overwrite counts as bad."""
    taken = sorted(set(added.values()) & set(line.fields or {}))
    if not taken or isinstance(line.trajectory, RfprmError):
        return line
    error = InvalidTrajectoryError(f"has the field {taken[0]!r} already; choose a --prefix")
    return Line(line.number, line.fields, error)


def _fields_of(score: TrajectoryScore, added: dict[str, str]) -> dict[str, Any]:
    values = score.model_dump()
    return {field: values[name] for name, field in added.items()}


def _note_failure(summary: FileSummary, file: IO[str], number: int, error: RfprmError) -> None:
    file.write(json_line({"line": number, "error": str(error)}))
    summary.num_failed += 1
    if len(summary.first_errors) < _MAX_ERRORS_TOLD:
        summary.first_errors.append(f"line {number}: {error}")


def _chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    iterator = iter(lines)
    while chunk := list(islice(iterator, _CHUNK_TRACES)):
        yield chunk


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
