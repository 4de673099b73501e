"""Splits traces longer than the model's positions into windows that fit. Knows integers only.

Every window begins with the question; what does not fit with its whole past is scored with the
steps just before it.

Of two windows of a trace only the question is the same to the model: what it computes for a token
depends on all tokens before it, so a step after other steps is another computation. A window's
repeated steps are therefore its whole cost, and the plan repeats no more of them than was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def plan_windows(
    row: EncodedTrajectory,
    max_positions: int,
    windows: Windows | None = None,
    *,
    engine_of: int | None = None,
) -> list[TokenRow]:
    """Rows of at most ``max_positions`` tokens whose markers, in order, are those of ``row``.

    A trace that fits is one row. For a longer one, the first row holds as many steps as fit. Each
    further row repeats the question and the fewest preceding steps that fill the share of the
    remaining positions that ``windows`` asks for, fewer only if the next step would not fit then,
    and continues with as many new steps as fit. The response and the trajectory's marker are new
    like a step. Where only the trajectory has a marker, its one row repeats all that fits.

    Raises :class:`TraceTooLongError` (with ``engine_of``) if the question with a single step, or
    with the response that a marker follows, does not fit.
    """
    if row.num_tokens <= max_positions:
        return [row]
    room = max_positions - row.num_prefix_tokens
    parts = _Parts.of(row)
    if parts.longest > room:
        needed = row.num_prefix_tokens + parts.longest
        raise TraceTooLongError(needed, max_positions, windowed=True, engine_of=engine_of)
    context = (windows or Windows()).context * room if row.num_step_markers else room
    return [_window(row, parts, *window) for window in _spans(parts, room, context)]


def first_windowed_step(row: EncodedTrajectory, max_positions: int) -> int | None:
    """The first step that is not scored with its whole past; None if the trace fits."""
    if row.num_tokens <= max_positions:
        return None
    return _end_within(row.step_bounds, 0, max_positions - row.num_prefix_tokens)


@dataclass(frozen=True)
class _Parts:
    """What is never split: each step, then what closes the steps, if a marker is in it."""

    bounds: NDArray[np.int64]  # [num_parts + 1], where each begins and the last ends
    num_unmarked: int
    """The first so many parts have no marker; each of the others has one."""

    @classmethod
    def of(cls, row: EncodedTrajectory) -> _Parts:
        closes = len(row.marker_positions) > row.num_step_markers
        bounds = np.append(row.step_bounds, row.num_tokens) if closes else row.step_bounds
        return cls(bounds, row.num_steps - row.num_step_markers)

    @property
    def count(self) -> int:
        return len(self.bounds) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.bounds).max())


def _spans(parts: _Parts, room: int, context: float) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop) of each window: it holds parts [start, stop), with the markers of
    [first, stop)."""
    first = parts.num_unmarked
    while first < parts.count:
        start = _start_of(parts.bounds, first, room, context)
        stop = _end_within(parts.bounds, start, room)
        yield start, first, stop
        first = stop


def _start_of(bounds: NDArray[np.int64], first: int, room: int, context: float) -> int:
    """The latest part with ``context`` tokens from there up to part ``first``; a later one if part
    ``first`` would not fit into ``room`` then."""
    asked = int(np.searchsorted(bounds, bounds[first] - context, side="right")) - 1
    fits = int(np.searchsorted(bounds, bounds[first + 1] - room, side="left"))
    return max(asked, fits, 0)


def _end_within(bounds: NDArray[np.int64], start: int, room: int) -> int:
    """One after the last part that fits into ``room`` tokens from part ``start`` on."""
    return int(np.searchsorted(bounds, bounds[start] + room, side="right")) - 1


def _window(row: EncodedTrajectory, parts: _Parts, start: int, first: int, stop: int) -> TokenRow:
    """The question and parts [start, stop), with the markers of [first, stop)."""
    prefix, begin = row.num_prefix_tokens, parts.bounds[start]
    tokens = (row.token_ids[:prefix], row.token_ids[begin : parts.bounds[stop]])
    marked = slice(first - parts.num_unmarked, stop - parts.num_unmarked)
    return TokenRow(np.concatenate(tokens), row.marker_positions[marked] - begin + prefix)
