"""Sessions of a reward model that gives one number for a whole sequence.

The score of a step is that of the trace that ends with it. A text that grows may change its last
tokens, so a past is kept without them, and used only where the tokens still begin with its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.rows import Extension, Past, TokenRow
from rfprm_runtime.sessions.content import KeptPast
from rfprm_runtime.sessions.host import NO_MARKERS, SessionHost, Texts, Turn
from rfprm_runtime.sessions.session import Session
from rfprm_runtime.types import Float32Array, Trajectory

_UNSETTLED = 8
"""So many of the last tokens may change when text is added; a guess that only costs time if it is
wrong."""


@dataclass(frozen=True)
class _Begun:
    """A past for one turn, and the tokens that it is of."""

    past: Past | None
    token_ids: NDArray[np.int64]

    def extension(self, row: TokenRow) -> Extension:
        """What is left to run of a row with one marker."""
        [marker] = row.marker_positions
        start = self._start(row.token_ids) if len(self.token_ids) <= marker else 0
        past = self.past if start else None
        return Extension(row.token_ids[start:], row.marker_positions - start, past)

    def continued(self, ids: NDArray[np.int64]) -> Extension:
        """What is left to run of ``ids``, to be kept."""
        start = self._start(ids)
        return Extension(ids[start:], NO_MARKERS, self.past if start else None, keep=True)

    def _start(self, ids: NDArray[np.int64]) -> int:
        """The first of ``ids`` that the past does not cover."""
        size = len(self.token_ids)
        begins = self.past is not None and np.array_equal(ids[:size], self.token_ids)
        return size if begins else 0


class PrefixSessionHost(SessionHost):
    """Runs such sessions on one engine."""

    def _step_logits(self, turns: list[Turn]) -> list[Float32Array]:
        prefixes = [self._prefix_rows(turn) for turn in turns]
        items = [
            before.extension(row)
            for rows, before in zip(prefixes, self._begin(turns), strict=True)
            for row in rows
        ]
        done = iter(self._engine.run(items))
        return [np.concatenate([next(done).logits for _ in rows]) for rows in prefixes]

    def _closing_logits(self, turns: list[Turn]) -> list[Float32Array]:
        items = [self._kept(turn.session).extension(turn.row) for turn in turns]
        return [result.logits for result in self._engine.run(items)]

    def _read_steps(self, session: Session, given: Sequence[str]) -> Texts:
        steps = self._checked_steps(session, given)
        row = self._encoder.encode_unfinished(session.question, (*session.steps, *steps))
        longest = self._encoder.encode(self._trajectory(session, steps))
        self._check_length(longest.num_tokens)
        return steps, row

    def _read_response(self, session: Session, given: Sequence[str]) -> Texts:
        response = self._checked_response(session, given)
        return response, self._encoder.encode(self._trajectory(session, response=response))

    def _worth_keeping(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return token_ids[: max(0, len(token_ids) - _UNSETTLED)]

    def _trajectory(
        self, session: Session, steps: Sequence[str] = (), response: Sequence[str] = ()
    ) -> Trajectory:
        return Trajectory(
            question=session.question, steps=(*session.steps, *steps), response=tuple(response)
        )

    def _prefix_rows(self, turn: Turn) -> list[TokenRow]:
        """The trace after each new step, as if it ended there."""
        ends = range(1, len(turn.texts) + 1)
        return [
            self._encoder.encode(self._trajectory(turn.session, turn.texts[:end])) for end in ends
        ]

    def _begin(self, turns: list[Turn]) -> list[_Begun]:
        """Run what will not change of the longer traces, and keep it."""
        kept = [self._kept(turn.session) for turn in turns]
        if not self._engine.keeps_pasts:
            return kept
        settled = [self._worth_keeping(turn.row.token_ids) for turn in turns]
        longer = [
            index
            for index, (ids, before) in enumerate(zip(settled, kept, strict=True))
            if len(ids) > len(before.token_ids)
        ]
        items = [kept[index].continued(settled[index]) for index in longer]

        def on_kept(place: int, past: Past) -> None:
            index = longer[place]
            self._keep(turns[index].session, KeptPast(past, settled[index]))

        for index, result in zip(longer, self._engine.run(items, on_kept=on_kept), strict=True):
            kept[index] = _Begun(result.past, settled[index])
        return kept

    def _kept(self, session: Session) -> _Begun:
        kept = self._past_of(session)
        if kept is None:
            return _Begun(None, np.zeros(0, np.int64))
        return _Begun(kept.past, kept.token_ids)
