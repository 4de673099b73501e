"""Calls that must come back: a child process does the work and is killed when it takes too long.

Computer algebra can run for hours on a line of text, and a thread cannot be stopped.
"""

from __future__ import annotations

import multiprocessing
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class BoundedWorker:
    """One function in one child process, which is started on the first call and after a kill."""

    def __init__(self, function: str, timeout: float) -> None:
        """``function`` is ``module:name``; ``timeout`` is in seconds a call."""
        self.timeout = timeout
        self._function = function
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self.num_timeouts = 0

    def __call__(self, *arguments: Any) -> Any:
        """The function's result; None where it raised or ran out of time."""
        pipe = self._ensure_started()
        try:
            pipe.send(arguments)
            if pipe.poll(self.timeout):
                return pipe.recv()
            self.num_timeouts += 1
        except (EOFError, OSError):
            pass  # the child died, of memory for example
        self.close()
        return None

    def close(self) -> None:
        """End the child process. Safe to call twice."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._pipe = None

    def _ensure_started(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        # spawn: a forked child of a process with threads may deadlock.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe = ours
        # Imports are not part of any call's time.
        if not ours.poll(60) or ours.recv() != "ready":
            self.close()
            raise RuntimeError(f"the child process for {self._function} did not start")
        return ours


def _serve(pipe: Connection, function: str) -> None:
    module, name = function.split(":")
    call = getattr(import_module(module), name)
    pipe.send("ready")
    while True:
        try:
            arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            result = call(*arguments)
        except Exception:  # whatever computer algebra raises, the answer is "not known"
            result = None
        pipe.send(result)
