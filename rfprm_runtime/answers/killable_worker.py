"""Calls that always return: a child process does the work and is killed when it takes too long.

Computer algebra can run for hours on a line of text, and a thread cannot be stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from importlib import import_module
from typing import IO, Any

from rfprm_runtime.errors import InvalidOperationError
from rfprm_runtime.ground.arguments import check_positive
from rfprm_runtime.ground.running import uninterrupted

_START_SECONDS = 60.0
_END_SECONDS = 5.0
_READY = "ready"


class _Request:
    def __init__(self, line: str) -> None:
        self.line = line
        self.is_given_up = False


class BoundedWorker:
    """One function in one child process, which starts with the first call and again after a kill.

    Any thread may call it; calls run one at a time.
    """

    def __init__(self, function: str, timeout: float) -> None:
        """``function`` is ``module:name`` and works on JSON values; ``timeout`` is in seconds per
        call.

        Raises :class:`InvalidArgumentError` if the timeout is not a positive number.
        """
        check_positive("timeout", timeout, "seconds")
        self.timeout = timeout
        self._function = function
        self._locks: dict[int, threading.Lock] = {}  # by process: a fork may copy a taken one
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        self._finish: (
            weakref.finalize[[subprocess.Popen[str], threading.Thread, int], Any] | None
        ) = None
        self._lines: queue.SimpleQueue[str | _Request] = queue.SimpleQueue()
        self.num_timeouts = 0

    def __call__(self, *arguments: Any) -> Any:
        """The function's result; None if it raised or ran out of time."""
        request = _Request(json.dumps(arguments))
        return uninterrupted(lambda: self._ask(request), lambda: self._give_up(request))

    def _give_up(self, request: _Request) -> None:
        """After Ctrl-C nobody reads what the child still answers."""
        request.is_given_up = True
        self._lines.put(request)

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _ask(self, request: _Request) -> Any:
        with self._lock():
            if request.is_given_up:
                return None
            stdin = self._ensure_started(request)
            try:
                stdin.write(request.line + "\n")
                stdin.flush()
                line = self._next_line(request, self.timeout)
                if line:
                    return json.loads(line)
            except queue.Empty:
                self.num_timeouts += 1
            except OSError:
                pass  # the child died, out of memory perhaps
            self._end()
            return None

    def _next_line(self, request: _Request, timeout: float) -> str:
        """What the child says; empty if it has ended or nobody wants the answer any more."""
        while True:
            found = self._lines.get(timeout=timeout)
            if isinstance(found, str):
                return found
            if found is request:
                return ""

    def close(self) -> None:
        """End the child process. Safe to call twice."""
        uninterrupted(self._close)

    def _close(self) -> None:
        with self._lock():
            self._end()

    def _end(self) -> None:
        self._process = None
        if self._finish is not None:
            self._finish()  # does nothing the second time

    def _ensure_started(self, request: _Request) -> IO[str]:
        if self._owner != os.getpid():
            # After a fork: the child process belongs to the parent, and its pipes are in use there.
            self._process = self._finish = None
        if self._process is None:
            self._owner = os.getpid()
            # Not multiprocessing: its children import the caller's main script, which would run it
            # again if it has no `if __name__ == "__main__"`.
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import serve; serve()", self._function],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            self._lines = queue.SimpleQueue()
            arguments = (self._process.stdout, self._lines)
            reader = threading.Thread(target=_forward, args=arguments, daemon=True)
            reader.start()
            # Not __del__: when a program ends, that runs after its threads were stopped, and then
            # nobody can close a pipe that one of them was reading.
            self._finish = weakref.finalize(self, _end_process, self._process, reader, self._owner)
            self._await_start(request)
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    def _await_start(self, request: _Request) -> None:
        """Wait for the child's imports, which count towards no call's time."""
        try:
            if self._next_line(request, _START_SECONDS) == _READY + "\n":
                return
        except queue.Empty:
            pass
        self._end()
        raise InvalidOperationError(f"the child process for {self._function} did not start")


def _end_process(process: subprocess.Popen[str], reader: threading.Thread, owner: int) -> None:
    """Kill the child; that ends its output, and with it the thread that reads it."""
    if os.getpid() != owner:  # a fork of the process that started it
        return
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what was to be written has no reader
            process.stdin.close()
    if reader is not threading.current_thread():  # garbage may be collected in any thread
        reader.join(_END_SECONDS)


def _forward(pipe: IO[str], lines: queue.SimpleQueue[str | _Request]) -> None:
    """Pass lines on as they come; an empty one means that the process has ended.

    Nothing else touches the pipe: closing it during a read would wait for the reader.
    """
    with pipe, contextlib.suppress(ValueError):  # something printed there is not UTF-8
        for line in pipe:
            lines.put(line)
    lines.put("")


def serve() -> None:
    """What the child process runs: one call per line, until its input ends."""
    module, name = sys.argv[1].split(":")
    answers, sys.stdout = sys.stdout, sys.stderr  # what the function prints is not an answer
    call = getattr(import_module(module), name)
    print(_READY, file=answers, flush=True)
    for line in sys.stdin:
        try:
            result = json.dumps(call(*json.loads(line)))
        except Exception:  # whatever computer algebra raises, the answer is "not known"
            result = "null"
        print(result, file=answers, flush=True)
