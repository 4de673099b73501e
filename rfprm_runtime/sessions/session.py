"""A session: what a user holds of a trace that grows. Its host does the work."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from rfprm_runtime.errors import RfprmError
from rfprm_runtime.sessions.content import Versions, Written
from rfprm_runtime.types import Float32Array, TrajectoryScore

if TYPE_CHECKING:
    from rfprm_runtime.sessions.host import SessionHost


class Session:
    """A question and the steps so far. Made by :meth:`Scorer.session` and :meth:`fork`.

    Use a session from one thread at a time; different sessions, forks included, may run in
    different threads at once. An error leaves a session as it was.
    """

    def __init__(self, host: SessionHost, question: str, written: Written) -> None:
        self._host = host
        self._key = host.new_key()
        self._closed = False
        self._calls: list[FrameType] = []  # that use it; the first that still runs has it
        self._versions = Versions(written, written, [])
        self.question = question
        weakref.finalize(self, host.forget, self._key).atexit = False

    @property
    def _written(self) -> Written:
        versions = self._versions
        return versions.after if versions.is_done else versions.before

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps so far."""
        return self._written.steps

    @property
    def step_scores(self) -> Float32Array:
        """float32 [T], the score of each step so far."""
        return self._written.step_scores

    @property
    def num_tokens(self) -> int:
        """Tokens of the question and the steps so far."""
        return len(self._written.token_ids)

    def extend(self, steps: Sequence[str]) -> Float32Array:
        """Add steps; returns their scores, float32 [len(steps)].

        Raises :class:`InvalidTrajectoryError` if ``steps`` is empty or has a blank step, and
        :class:`TraceTooLongError` if the model has no positions left for them.
        """
        [scores] = self._host.extend([self], [steps], "return")
        if isinstance(scores, RfprmError):
            raise scores  # without a place: there is only one session
        return scores

    def score(self, response: Sequence[str] = ()) -> TrajectoryScore:
        """Score the trace so far as if it ended with ``response``; it can still be extended.

        Equals :meth:`Scorer.score` of the same trace, as exactly as :meth:`Scorer.session` says.
        """
        [score] = self._host.score([self], [response], "return")
        if isinstance(score, RfprmError):
            raise score
        return score

    def fork(self) -> Session:
        """A new session with the same past. A past that is not in the cache is computed here,
        unless ``session_bytes`` is 0 and none is kept."""
        return self._host.fork(self)

    def close(self) -> None:
        """Free the past. Calling it twice is fine."""
        self._closed = True
        self._host.forget(self._key)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.num_tokens} tokens"
        return f"<Session: {len(self.steps)} steps, {state}>"
