"""Sessions: a trace that grows step by step, and branches, without paying for its past twice.

encode the new steps → run them after the past → read out
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.engine.engine import Engine
from rfprm_runtime.engine.rows import Extended, Extension, Past, TokenRow
from rfprm_runtime.errors import UNSCORABLE, BackendError, RfprmError, around_errors, raise_first
from rfprm_runtime.ground.arguments import check_choice, check_is, check_one_for_each
from rfprm_runtime.ground.running import uninterrupted
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.prompt.windowing import check_length
from rfprm_runtime.scores.readout import assemble_score, read_step_scores
from rfprm_runtime.sessions.claims import Claims
from rfprm_runtime.sessions.content import KeptPast, Versions, Written
from rfprm_runtime.sessions.session import Session
from rfprm_runtime.types import (
    Float32Array,
    OnError,
    Trajectory,
    TrajectoryScore,
    UnfinishedTrajectory,
)

NO_MARKERS = np.zeros(0, np.int64)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """A session and what one call adds to it."""

    session: Session
    texts: tuple[str, ...]
    row: TokenRow
    """All tokens, with the markers of what is new."""


Texts = tuple[tuple[str, ...], TokenRow]
"""Checked steps, or a checked response, and the session's tokens with theirs."""
_Read = Callable[[Session, Sequence[str]], Texts]


class SessionHost:
    """Runs sessions on one engine."""

    def __init__(self, manifest: Manifest, encoder: TrajectoryEncoder, engine: Engine) -> None:
        self._manifest, self._encoder, self._engine = manifest, encoder, engine
        self._keys = itertools.count()
        self._warned = False

    def new_key(self) -> int:
        return next(self._keys)

    def forget(self, key: int) -> None:
        """Free the past of a session. Safe to call from a finalizer."""
        self._engine.drop(key)

    def open(self, question: str) -> Session:
        with self._engine.call():
            UnfinishedTrajectory.build(question=question)
            opening = self._encoder.encode_opening(question)
            self._check_length(opening.num_tokens)
            return Session(self, question, Written((), np.zeros(0, np.float32), opening.token_ids))

    def extend(
        self,
        sessions: Sequence[Session],
        steps: Sequence[Sequence[str] | RfprmError],
        on_error: OnError,
    ) -> list[Float32Array | RfprmError]:
        _check_each("steps", steps, sessions, on_error)
        with self._engine.call(), Claims(self, sessions) as refusals:
            turns = self._turns(sessions, steps, refusals, self._read_steps, on_error)
            return around_errors(turns, self._extend)

    def _extend(self, turns: list[Turn]) -> list[Float32Array]:
        logits = self._step_logits(turns)
        scores = [read_step_scores(own, self._manifest) for own in logits]
        is_done: list[bool] = []
        for turn, own in zip(turns, scores, strict=True):
            before = turn.session._written
            turn.session._versions = Versions(before, _grown(turn, own), is_done)
        is_done.append(True)
        return scores

    def _step_logits(self, turns: list[Turn]) -> list[Float32Array]:
        """float32 [num_steps, num_labels] of each turn's new steps; keeps the pasts."""
        return [result.logits for result in self._run(turns, keep=True)]

    def score(
        self,
        sessions: Sequence[Session],
        responses: Sequence[Sequence[str] | RfprmError],
        on_error: OnError,
    ) -> list[TrajectoryScore | RfprmError]:
        _check_each("responses", responses, sessions, on_error)
        with self._engine.call(), Claims(self, sessions) as refusals:
            turns = self._turns(sessions, responses, refusals, self._read_response, on_error)
            return around_errors(turns, self._score)

    def _score(self, turns: list[Turn]) -> list[TrajectoryScore]:
        return [
            assemble_score(
                self._manifest,
                turn.session.step_scores.copy(),
                logits,
                num_tokens=turn.row.num_tokens,
            )
            for turn, logits in zip(turns, self._closing_logits(turns), strict=True)
        ]

    def _closing_logits(self, turns: list[Turn]) -> list[Float32Array]:
        """float32 [1, num_labels] of each trajectory's marker; [0, num_labels] if there is none."""
        if self._manifest.trajectory_readout is None:
            return [np.zeros((0, self._manifest.head.num_labels), np.float32)] * len(turns)
        return [result.logits for result in self._run(turns, keep=False)]

    def fork(self, session: Session) -> Session:
        with self._engine.call(), Claims(self, [session]) as [refusal]:
            if refusal is not None:
                raise refusal
            row = TokenRow(self._worth_keeping(session._written.token_ids), NO_MARKERS)
            if self._engine.keeps_pasts and row.num_tokens and self._past_of(session) is None:
                self._run([Turn(session, (), row)], keep=True)
            fork = Session(self, session.question, session._written)
            kept = self._past_of(session)
            if kept is not None:
                uninterrupted(lambda: self._keep(fork, kept))
            return fork

    def _turns(
        self,
        sessions: Sequence[Session],
        given: Sequence[Sequence[str] | RfprmError],
        refusals: Sequence[BackendError | None],
        read: _Read,
        on_error: OnError,
    ) -> list[Turn | RfprmError]:
        """``read`` what each session was given. An error stands in for a session that cannot take
        part."""
        turns = [
            refusal or self._turn(session, texts, read)
            for session, texts, refusal in zip(sessions, given, refusals, strict=True)
        ]
        if on_error == "raise":
            raise_first(turns, "session")
        return turns

    def _turn(
        self, session: Session, given: Sequence[str] | RfprmError, read: _Read
    ) -> Turn | RfprmError:
        if isinstance(given, RfprmError):
            return given
        try:
            texts, row = read(session, given)
            self._check_length(row.num_tokens)
        except UNSCORABLE as error:
            return error
        return Turn(session, texts, row)

    def _read_steps(self, session: Session, given: Sequence[str]) -> Texts:
        steps = self._checked_steps(session, given)
        after = len(session.steps)
        return steps, _longer(
            session, self._encoder.encode_steps(session.question, steps, after=after)
        )

    def _read_response(self, session: Session, given: Sequence[str]) -> Texts:
        response = self._checked_response(session, given)
        return response, _longer(session, self._encoder.encode_closing(response))

    def _checked_steps(self, session: Session, given: Sequence[str]) -> tuple[str, ...]:
        return UnfinishedTrajectory.build(question=session.question, steps=given).steps

    def _checked_response(self, session: Session, given: Sequence[str]) -> tuple[str, ...]:
        if not session.steps:
            Trajectory.build(question=session.question, steps=())  # raises the usual error
        return UnfinishedTrajectory.build(question=session.question, response=given).response

    def _worth_keeping(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The part that a longer session will begin with too."""
        return token_ids

    def _check_length(self, num_tokens: int) -> None:
        manifest = self._manifest
        check_length(num_tokens, manifest.max_positions, engine_of=manifest.positions_beyond_engine)

    def _run(self, turns: Sequence[Turn], *, keep: bool) -> list[Extended]:
        """Run the part of each row that no past covers; logits of all markers, in order."""
        items = []
        for turn in turns:
            kept = self._past_of(turn.session)
            start = 0 if kept is None else kept.num_tokens
            ids, markers = turn.row.token_ids[start:], turn.row.marker_positions - start
            past = None if kept is None else kept.past
            items.append(Extension(ids, markers, past, keep and self._engine.keeps_pasts))

        def on_kept(index: int, past: Past) -> None:
            turn = turns[index]
            self._keep(turn.session, KeptPast(past, turn.row.token_ids))

        return self._engine.run(items, on_kept=on_kept)

    def _past_of(self, session: Session) -> KeptPast | None:
        kept = self._engine.pasts.get(session._key)
        if isinstance(kept, KeptPast) and kept.begins(session._written):
            return kept
        return None

    def _keep(self, session: Session, kept: KeptPast) -> None:
        """Keep the past of ``session``, which lives until then: a finalizer that came first would
        leave the past behind."""
        if not self._engine.keep(session._key, kept) and not self._warned:
            self._warned = True
            _logger.warning(
                "the past of a session of %d tokens does not fit session_bytes=%d, so it is "
                "computed again in every call; load the scorer with a larger session_bytes",
                kept.num_tokens,
                self._engine.pasts.max_bytes,
            )
        if session._closed:  # meanwhile, by another thread
            self.forget(session._key)


def _longer(session: Session, new: TokenRow) -> TokenRow:
    """The session's tokens, then the new ones; only the new ones have markers."""
    before = session._written.token_ids
    ids = np.concatenate([before, new.token_ids])
    return TokenRow(ids, new.marker_positions + len(before))


def _grown(turn: Turn, scores: Float32Array) -> Written:
    before = turn.session._written
    step_scores = np.concatenate([before.step_scores, scores])
    step_scores.flags.writeable = False  # forks share the array
    return Written(before.steps + turn.texts, step_scores, turn.row.token_ids)


def _check_each(name: str, given: Sequence[Any], sessions: Sequence[Session], how: str) -> None:
    check_choice("on_error", how, get_args(OnError))
    check_is("sessions", sessions, Sequence, "a list of sessions")
    check_one_for_each(name, given, len(sessions), "sessions")
