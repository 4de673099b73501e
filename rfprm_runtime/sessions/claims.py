"""Keeps two calls from using one session at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.arguments import check_is
from rfprm_runtime.ground.running import check_can_be_asked, is_running
from rfprm_runtime.sessions.session import Session

if TYPE_CHECKING:
    from rfprm_runtime.sessions.host import SessionHost


class Claims:
    """A context that keeps other calls away from the sessions. It gives an error for each that is
    closed or in use, and None for the others.

    Raises if the call itself makes no sense: another scorer's session, or one given twice.
    """

    def __init__(self, host: SessionHost, sessions: Sequence[Session]) -> None:
        self._host, self._sessions = host, sessions

    def __enter__(self) -> list[BackendError | None]:
        _check_sessions(self._host, self._sessions)
        call = sys._getframe(1)
        check_can_be_asked(call)
        return [_claim(session, call) for session in self._sessions]

    def __exit__(self, *exc_info: object) -> None:
        call = sys._getframe(1)
        for session in self._sessions:
            _give_up(session, call)


def _claim(session: Session, call: FrameType) -> BackendError | None:
    if session._closed:
        return BackendError("the session was closed; open another one")
    session._calls.append(call)
    for other in list(session._calls):
        if other is call:
            return None
        if is_running(other):
            _give_up(session, call)
            return BackendError(
                "another thread is using the session; give each thread its own fork"
            )
        _give_up(session, other)  # an interrupt kept it from doing so itself
    return None


def _give_up(session: Session, call: FrameType) -> None:
    with suppress(ValueError):  # it had no claim, or somebody else removed it
        session._calls.remove(call)


def _check_sessions(host: SessionHost, sessions: Sequence[Session]) -> None:
    for index, session in enumerate(sessions):
        check_is(f"session {index} (from 0)", session, Session, "a scorer.session(question)")
        if session._host is not host:
            raise BackendError(f"session {index} (from 0) belongs to another scorer")
    if len(set(sessions)) < len(sessions):
        raise BackendError("a session is given twice in this call; pass a fork of it")
