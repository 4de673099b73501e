"""Splits traces longer than the model's positions into windows that fit. Knows integers only.

Every window begins with the question; a step that does not fit with its whole past is scored
with the steps just before it.
"""

from __future__ import annotations

import numpy as np

from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.errors import TraceTooLongError
from rfprm_runtime.prompt.encoding import EncodedTrajectory


def check_length(num_tokens: int, max_positions: int, *, engine_of: int | None = None) -> None:
    """Raises :class:`TraceTooLongError` if a row of ``num_tokens`` does not fit."""
    if num_tokens > max_positions:
        raise TraceTooLongError(num_tokens, max_positions, engine_of=engine_of)


def plan_windows(
    row: EncodedTrajectory, max_positions: int, *, engine_of: int | None = None
) -> list[TokenRow]:
    """Rows of at most ``max_positions`` tokens whose markers, in order, are those of ``row``.

    A trace that fits is one row. For a longer one, the first row holds as many steps as fit. Each
    further row repeats the question and enough preceding steps to fill up to half of the remaining
    positions, then continues with new steps. The last row holds as many of the last steps as fit
    before the response and the trajectory marker; it is the only one where steps have no markers.

    Raises :class:`TraceTooLongError` (with ``engine_of``) if the question with a single step, or
    with the response, does not fit.
    """
    if row.num_tokens <= max_positions:
        return [row]
    room = max_positions - row.num_prefix_tokens
    num_suffix = row.num_tokens - row.step_bounds[-1]
    longest = max(int(np.diff(row.step_bounds).max()), int(num_suffix))
    if longest > room:
        needed = row.num_prefix_tokens + longest
        raise TraceTooLongError(needed, max_positions, windowed=True, engine_of=engine_of)
    windows, num_scored = [], 0
    while num_scored < row.num_step_markers:
        start = _first_step_within(row, num_scored, room // 2) if num_scored else 0
        # A long step may leave less than half of the room for preceding steps.
        while row.step_bounds[num_scored + 1] - row.step_bounds[start] > room:
            start += 1
        stop = _end_within(row, start, room)
        windows.append(_window(row, start, num_scored, stop))
        num_scored = stop
    if num_suffix:
        windows.append(_last_window(row, room - int(num_suffix)))
    return windows


def first_windowed_step(row: EncodedTrajectory, max_positions: int) -> int | None:
    """The first step that is not scored with its whole past; None if the trace fits."""
    if row.num_tokens <= max_positions:
        return None
    return _end_within(row, 0, max_positions - row.num_prefix_tokens)


def _first_step_within(row: EncodedTrajectory, step: int, room: int) -> int:
    """The earliest step such that the tokens from there up to ``step`` fit into ``room``."""
    earliest = row.step_bounds[step] - room
    return min(int(np.searchsorted(row.step_bounds, earliest, side="left")), step)


def _end_within(row: EncodedTrajectory, start: int, room: int) -> int:
    """One after the last step that fits into ``room`` tokens from step ``start`` on."""
    end = row.step_bounds[start] + room
    return int(np.searchsorted(row.step_bounds, end, side="right")) - 1


def _window(row: EncodedTrajectory, start: int, first_scored: int, stop: int) -> TokenRow:
    """Question and steps [start, stop), with the markers of [first_scored, stop)."""
    prefix, begin = row.num_prefix_tokens, row.step_bounds[start]
    tokens = (row.token_ids[:prefix], row.token_ids[begin : row.step_bounds[stop]])
    markers = row.marker_positions[first_scored:stop] - begin + prefix
    return TokenRow(np.concatenate(tokens), markers)


def _last_window(row: EncodedTrajectory, room: int) -> TokenRow:
    """Question, as many of the last steps as fit, and what follows the steps."""
    prefix = row.num_prefix_tokens
    begin = row.step_bounds[_first_step_within(row, row.num_steps, room)]
    tokens = (row.token_ids[:prefix], row.token_ids[begin:])
    markers = row.marker_positions[row.num_step_markers :] - begin + prefix
    return TokenRow(np.concatenate(tokens), markers)
