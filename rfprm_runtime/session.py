"""Sessions: a trace that grows step by step, and branches, without paying for its past twice.

encode the new steps → run them after the past → read out
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.aggregation import trajectory_reward
from rfprm_runtime.backends.base import Backend, CachingBackend
from rfprm_runtime.batching import Extended, Extension
from rfprm_runtime.encoding import TokenRow, TrajectoryEncoder
from rfprm_runtime.errors import BackendError, InvalidArgumentError, TraceTooLongError
from rfprm_runtime.execution import run_extensions, run_rows
from rfprm_runtime.lifetime import Lifetime
from rfprm_runtime.manifest import Manifest
from rfprm_runtime.past_cache import PastCache
from rfprm_runtime.readout import read_scores
from rfprm_runtime.types import Float32Array, Mode, Trajectory, TrajectoryScore

_NO_MARKERS = np.zeros(0, np.int64)
_logger = logging.getLogger(__name__)


class Session:
    """A question and the steps so far. Made by :meth:`Scorer.session` and :meth:`fork`.

    One thread uses a session at a time; different sessions, forks of one among them, may be used
    by any number at once. An error leaves a session as it was.
    """

    def __init__(
        self,
        host: SessionHost,
        question: str,
        steps: tuple[str, ...],
        step_scores: Float32Array,
        token_ids: NDArray[np.int64],
    ) -> None:
        self._host = host
        self._key = host.new_key()
        self._closed = False
        self._busy = False
        self._token_ids = token_ids
        self.question = question
        self.steps = steps
        self.step_scores = step_scores
        """float32 [T], the reward in [0, 1] of each step so far."""
        self._finalizer = weakref.finalize(self, host.cache.drop, self._key)

    @property
    def num_tokens(self) -> int:
        """Tokens of the question and the steps so far."""
        return len(self._token_ids)

    def extend(self, steps: Sequence[str]) -> Float32Array:
        """Add steps; returns their scores, float32 [len(steps)].

        Raises :class:`InvalidTrajectoryError` where ``steps`` holds none or a blank one and
        :class:`TraceTooLongError` where the model has no positions left for them.
        """
        return self._host.extend([self], [steps])[0]

    def score(self, response: Sequence[str] = ()) -> TrajectoryScore:
        """The score of the trace as it is, ended by ``response``; it can still be extended.

        To the bit what :meth:`Scorer.score` says of the same question, steps and response.
        """
        return self._host.score([self], [response])[0]

    def fork(self) -> Session:
        """Another session with the same past, which is computed here if it is not at hand (unless
        ``session_bytes`` is 0, so that none is kept)."""
        return self._host.fork(self)

    def close(self) -> None:
        """Free the past. Calling it twice is fine."""
        self._closed = True
        self._finalizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.num_tokens} tokens"
        return f"<Session: {len(self.steps)} steps, {state}>"


class SessionHost:
    """Runs sessions on one backend and keeps their pasts."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: TrajectoryEncoder,
        backend: Backend,
        pool: Executor,
        lifetime: Lifetime,
        mode: Mode,
        max_bytes: int,
    ) -> None:
        self._manifest, self._encoder, self._backend = manifest, encoder, backend
        self._pool, self._lifetime, self._mode = pool, lifetime, mode
        self.cache = PastCache(max_bytes)
        self._lock = threading.Lock()
        self._keys = itertools.count()
        self._warned = False

    def new_key(self) -> int:
        return next(self._keys)

    def open(self, question: str) -> Session:
        # Trajectory says what is wrong with a question; it wants a step, which is not there yet.
        Trajectory.build(question=question, steps=("…",))
        with self._lifetime.call():
            opening = self._encoder.encode_opening(question)
            self._check_length(opening.num_tokens)
            return Session(self, question, (), np.zeros(0, np.float32), opening.token_ids)

    def extend(
        self, sessions: Sequence[Session], steps: Sequence[Sequence[str]]
    ) -> list[Float32Array]:
        if len(sessions) != len(steps):
            raise InvalidArgumentError(
                f"got {len(sessions)} sessions and {len(steps)} lists of steps"
            )
        with self._in_use(sessions):
            added, rows = [], []
            for session, new in zip(sessions, steps, strict=True):
                added.append(Trajectory.build(question=session.question, steps=new).steps)
                rows.append(self._after(session, self._encoder.encode_steps(added[-1])))
            results = self._run(sessions, rows, keep=True)
            scores = []
            for session, new_steps, row, result in zip(sessions, added, rows, results, strict=True):
                scores.append(read_scores(result.logits, self._manifest.step_readout))
                self._remember(session, result)
                session._token_ids = row.token_ids
                session.steps += new_steps
                session.step_scores = np.concatenate([session.step_scores, scores[-1]])
                session.step_scores.flags.writeable = False  # forks have the same array
            return scores

    def score(
        self, sessions: Sequence[Session], responses: Sequence[Sequence[str]]
    ) -> list[TrajectoryScore]:
        if len(sessions) != len(responses):
            raise InvalidArgumentError(
                f"got {len(sessions)} sessions and {len(responses)} responses"
            )
        with self._in_use(sessions):
            rows = []
            for session, response in zip(sessions, responses, strict=True):
                whole = Trajectory.build(
                    question=session.question, steps=session.steps, response=response
                )
                rows.append(self._after(session, self._encoder.encode_closing(whole.response)))
            readout = self._manifest.trajectory_readout
            trajectory_scores: list[float | None] = [None] * len(rows)
            if readout is not None:
                trajectory_scores = [
                    float(read_scores(result.logits, readout)[0])
                    for result in self._run(sessions, rows, keep=False)
                ]
            return [
                TrajectoryScore(
                    step_scores=session.step_scores.copy(),
                    trajectory_score=score,
                    reward=trajectory_reward(session.step_scores, score, self._manifest.alpha),
                    num_tokens=row.num_tokens,
                )
                for session, row, score in zip(sessions, rows, trajectory_scores, strict=True)
            ]

    def fork(self, session: Session) -> Session:
        with self._in_use([session]):
            keeps = isinstance(self._backend, CachingBackend) and self.cache.max_bytes > 0
            if keeps and self.cache.get(session._key) is None:
                row = TokenRow(session._token_ids, _NO_MARKERS)
                self._remember(session, self._run([session], [row], keep=True)[0])
            fork = Session(
                self, session.question, session.steps, session.step_scores, session._token_ids
            )
            past = self.cache.get(session._key)
            if past is not None:
                self.cache.put(fork._key, past)
            return fork

    @contextmanager
    def _in_use(self, sessions: Sequence[Session]) -> Iterator[None]:
        """Claim the sessions for this call, or say why they cannot be used."""
        with self._lifetime.call(), self._claimed(sessions):
            yield

    @contextmanager
    def _claimed(self, sessions: Sequence[Session]) -> Iterator[None]:
        with self._lock:
            for index, session in enumerate(sessions):
                if session._host is not self:
                    raise BackendError(f"session {index} belongs to another scorer")
                if session._closed:
                    raise BackendError(f"session {index} was closed; open another one")
            if any(session._busy for session in sessions) or len(set(sessions)) < len(sessions):
                raise BackendError(
                    "a session is in use by another thread or twice in this call; fork it first"
                )
            for session in sessions:
                session._busy = True
        try:
            yield
        finally:
            for session in sessions:
                session._busy = False

    def _after(self, session: Session, new: TokenRow) -> TokenRow:
        """The session's tokens with the new ones behind them, marked only in the new ones."""
        self._check_length(session.num_tokens + new.num_tokens)
        return TokenRow(
            np.concatenate([session._token_ids, new.token_ids]),
            new.marker_positions + session.num_tokens,
        )

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens > self._manifest.max_positions:
            raise TraceTooLongError(
                num_tokens,
                self._manifest.max_positions,
                engine_of=self._manifest.positions_beyond_engine,
            )

    def _run(
        self, sessions: Sequence[Session], rows: list[TokenRow], *, keep: bool
    ) -> list[Extended]:
        """Run what the cache does not have of each row; logits of all markers, in order."""
        if not isinstance(self._backend, CachingBackend):
            logits = run_rows(self._backend, self._pool, rows, lambda index: None, self._mode)
            return [Extended(own, None) for own in logits]
        items = []
        for session, row in zip(sessions, rows, strict=True):
            past = self.cache.get(session._key)
            start = 0 if past is None else past.num_tokens
            items.append(Extension(row.token_ids[start:], row.marker_positions - start, past, keep))
        done: dict[int, Extended] = {}
        run_extensions(self._backend, self._pool, items, done.__setitem__, self._mode)
        return [done[index] for index in range(len(items))]

    def _remember(self, session: Session, result: Extended) -> None:
        if result.past is not None:
            kept = self.cache.put(session._key, result.past)
            if not kept and self.cache.max_bytes and not self._warned:
                self._warned = True
                _logger.warning(
                    "the past of a session of %d tokens does not fit session_bytes=%d, so that it "
                    "is computed again in every call; load the scorer with more",
                    session.num_tokens,
                    self.cache.max_bytes,
                )
            if session._closed:  # meanwhile, by another thread
                self.cache.drop(session._key)
