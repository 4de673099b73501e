"""Splits traces longer than the model's positions into windows that fit. Knows integers only.

Every window begins with the question; what does not fit with its whole past is scored with the
steps just before it.

Only the question is the same computation in two windows of a trace: what a model computes for a
token depends on every token before it. So the steps that a window repeats are run again, and a plan
has as few windows as the repeated steps allow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.errors import TraceTooLongError
from rfprm_runtime.prompt.encoding import EncodedTrajectory
from rfprm_runtime.types import Windows


def check_length(num_tokens: int, max_positions: int, *, engine_of: int | None = None) -> None:
    """Raises :class:`TraceTooLongError` if a row of ``num_tokens`` does not fit."""
    if num_tokens > max_positions:
        raise TraceTooLongError(num_tokens, max_positions, engine_of=engine_of)


@dataclass(frozen=True)
class WindowPlan:
    """What is run to score one trace."""

    rows: list[TokenRow]
    """Their markers, in order, are those of the trace."""
    windowed_from: int | None = None
    """The first step that is scored without its whole past; the number of steps if only the
    trajectory is, and None if nothing is."""


def plan_windows(
    row: EncodedTrajectory,
    max_positions: int,
    windows: Windows | None = None,
    *,
    engine_of: int | None = None,
) -> WindowPlan:
    """Rows of at most ``max_positions`` tokens that score all of ``row``.

    A trace that fits is one row. Otherwise each row begins with the question, and the first step
    that it scores has at least ``windows.context`` of the remaining positions before it: all of its
    past, or whole steps; fewer only where the step would not fit otherwise. One row of a plan may
    be short. If the trajectory has a marker, that is the first one: the last then holds as many
    steps before the response as fit, since the trajectory's score rests on it. Otherwise it is the
    last one, and the first scores as many steps as fit, which have their whole past. Where only the
    trajectory has a marker there is but one row: as many of the last steps as fit, and the
    response.

    Raises :class:`TraceTooLongError` (with ``engine_of``) if the question with a single step, or
    with a response that a marker follows, does not fit.
    """
    if row.num_tokens <= max_positions:
        return WindowPlan([row])
    room = max_positions - row.num_prefix_tokens
    parts = _Parts.of(row)
    if parts.longest > room:
        needed = row.num_prefix_tokens + parts.longest
        raise TraceTooLongError(needed, max_positions, windowed=True, engine_of=engine_of)
    context = (windows or Windows()).context * room
    spans_of = _spans_from_end if parts.closing else _spans_from_start
    spans = spans_of(parts, room, context)
    rows = [_window(row, parts, span) for span in spans]
    if spans[0].start:  # the only one
        return WindowPlan(rows, min(_end_within(parts.bounds, 0, room), row.num_steps))
    return WindowPlan(rows, spans[1].first if len(spans) > 1 else None)


@dataclass(frozen=True)
class _Parts:
    """What is never split: each step, then what closes the steps, if a marker is in it."""

    bounds: NDArray[np.int64]  # [num_parts + 1], where each begins and the last ends
    num_unmarked: int
    """The first so many parts have no marker; each of the others has one."""
    closing: bool
    """Whether the last part is what closes the steps."""

    @classmethod
    def of(cls, row: EncodedTrajectory) -> _Parts:
        closing = len(row.marker_positions) > row.num_step_markers
        bounds = np.append(row.step_bounds, row.num_tokens) if closing else row.step_bounds
        return cls(bounds, row.num_steps - row.num_step_markers, closing)

    @property
    def count(self) -> int:
        return len(self.bounds) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.bounds).max())


@dataclass(frozen=True)
class _Span:
    """A window: parts [start, stop), with the markers of [first, stop)."""

    start: int
    first: int
    stop: int


def _spans_from_start(parts: _Parts, room: int, context: float) -> list[_Span]:
    """Every window but the last is full."""
    spans: list[_Span] = []
    first = 0
    while first < parts.count:
        enough = _last_with(parts.bounds, first, context)
        start = max(enough, _earliest_within(parts.bounds, first + 1, room))
        stop = _end_within(parts.bounds, start, room)
        spans.append(_Span(start, first, stop))
        first = stop
    return spans


def _spans_from_end(parts: _Parts, room: int, context: float) -> list[_Span]:
    """Every window but the first is full."""
    spans: list[_Span] = []
    stop = parts.count
    while stop > parts.num_unmarked:
        start = _earliest_within(parts.bounds, stop, room)
        enough = _first_with(parts.bounds, start, context) if start else 0
        first = max(parts.num_unmarked, min(enough, stop - 1))
        spans.append(_Span(start, first, stop))
        stop = first
    return spans[::-1]


def _earliest_within(bounds: NDArray[np.int64], stop: int, room: int) -> int:
    """The earliest part from which ``room`` tokens reach to the end of the part before ``stop``."""
    return int(np.searchsorted(bounds, bounds[stop] - room, side="left"))


def _end_within(bounds: NDArray[np.int64], start: int, room: int) -> int:
    """One after the last part that fits into ``room`` tokens from part ``start`` on."""
    return int(np.searchsorted(bounds, bounds[start] + room, side="right")) - 1


def _last_with(bounds: NDArray[np.int64], part: int, context: float) -> int:
    """The last part with ``context`` tokens from there up to ``part``, or the first of all."""
    return max(0, int(np.searchsorted(bounds, bounds[part] - context, side="right")) - 1)


def _first_with(bounds: NDArray[np.int64], start: int, context: float) -> int:
    """The first part with ``context`` tokens before it from part ``start`` on."""
    return int(np.searchsorted(bounds, bounds[start] + context, side="left"))


def _window(row: EncodedTrajectory, parts: _Parts, span: _Span) -> TokenRow:
    """The question and the parts of ``span``, with its markers."""
    prefix, begin = row.num_prefix_tokens, parts.bounds[span.start]
    tokens = (row.token_ids[:prefix], row.token_ids[begin : parts.bounds[span.stop]])
    marked = slice(span.first - parts.num_unmarked, span.stop - parts.num_unmarked)
    return TokenRow(np.concatenate(tokens), row.marker_positions[marked] - begin + prefix)
