"""Calls that always return: a child process does the work and is killed when it takes too long.

Computer algebra can run for hours on a line of text, in one call of the C library that nothing in
Python can stop, and a thread cannot be stopped either. So the child forks a worker, which asks the
kernel to kill it when its time is up. The child itself has imported everything and forks the next
worker within milliseconds. Where there is no fork, the parent kills the child and starts another.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

from rfprm_runtime.errors import InvalidOperationError
from rfprm_runtime.ground.arguments import check_positive
from rfprm_runtime.ground.running import uninterrupted

_START_SECONDS = 60.0
_END_SECONDS = 5.0
_READY = "ready"
_LATE = "late"
_CAN_FORK = hasattr(os, "fork")
WAIT_FACTOR = 2.0
"""How much longer a call may take by the clock: on a busy machine it waits for a core."""
_GRACE_SECONDS = 10.0
"""How much longer still the parent waits, on a machine too busy to kill on time."""
_MOST_BYTES = 2 * 2**30
"""Of address space, for a worker."""


# Python puts the working directory first, where a file of the data may have the name of a module.
_CHILD = f"""
import sys
if "" in sys.path:
    sys.path.remove("")
from {__name__} import serve
serve()
"""


def _search_path() -> str:
    """Where this process finds modules, the working directory included only if it does here."""
    return os.pathsep.join(place or os.getcwd() for place in sys.path)


class Request:
    """A call. ``seconds`` are the CPU time that it may take."""

    def __init__(self, seconds: float, arguments: tuple[Any, ...]) -> None:
        self.line = json.dumps([seconds, *arguments])
        self.longest_wait = seconds * WAIT_FACTOR + _GRACE_SECONDS * _CAN_FORK
        self.is_given_up = False


class BoundedWorker:
    """One function in one child process, which starts with the first call.

    Any thread may call it; calls run one at a time.
    """

    def __init__(self, function: str, timeout: float, *, warm_up: str | None = None) -> None:
        """``function`` is ``module:name`` and works on JSON values. ``timeout`` is in seconds of
        CPU time per call; a call that waits may take :data:`WAIT_FACTOR` times as long. Neither
        counts the start, in which ``warm_up`` is called, another ``module:name``.

        Raises :class:`InvalidArgumentError` if the timeout is not a positive number.
        """
        check_positive("timeout", timeout, "seconds")
        self.timeout = timeout
        self._functions = [function] if warm_up is None else [function, warm_up]
        self._locks: dict[int, threading.Lock] = {}  # by process: a fork may copy a taken one
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        self._finish: (
            weakref.finalize[[subprocess.Popen[str], threading.Thread, int], Any] | None
        ) = None
        self._lines: queue.SimpleQueue[str | Request] = queue.SimpleQueue()
        self.num_timeouts = 0

    def __call__(self, *arguments: Any, seconds: float | None = None) -> Any:
        """The function's result; None if it raised or ran out of time, which is ``seconds``, by
        default ``timeout``."""
        request = self.request(*arguments, seconds=seconds)
        return uninterrupted(lambda: self.ask(request), lambda: self.give_up(request))

    def request(self, *arguments: Any, seconds: float | None = None) -> Request:
        """A call for :meth:`ask`."""
        return Request(self.timeout if seconds is None else seconds, arguments)

    def start(self) -> None:
        """Start the child, if it does not run, and wait until it is warm."""
        request = self.request()
        uninterrupted(lambda: self._start(request), lambda: self.give_up(request))

    def _start(self, request: Request) -> None:
        with self._lock():
            if not request.is_given_up:
                self._ensure_started(request)

    def give_up(self, request: Request) -> None:
        """After Ctrl-C nobody reads what the child still answers."""
        request.is_given_up = True
        self._lines.put(request)

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def ask(self, request: Request) -> Any:
        """What :meth:`__call__` returns, for a thread that signals do not reach."""
        with self._lock():
            if request.is_given_up:
                return None
            stdin = self._ensure_started(request)
            try:
                stdin.write(request.line + "\n")
                stdin.flush()
                line = self._next_line(request, request.longest_wait)
                if line == _LATE + "\n":
                    self.num_timeouts += 1
                    return None
                if line:
                    return json.loads(line)
            except queue.Empty:
                self.num_timeouts += 1
            except OSError:
                pass  # the child died, out of memory perhaps
            self._end()
            return None

    def _next_line(self, request: Request, timeout: float) -> str:
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

    def _ensure_started(self, request: Request) -> IO[str]:
        if self._owner != os.getpid():
            # After a fork: the child process belongs to the parent, and its pipes are in use there.
            self._process = self._finish = None
        if self._process is None:
            self._owner = os.getpid()
            # Not multiprocessing: its children import the caller's main script, which would run it
            # again if it has no `if __name__ == "__main__"`.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *self._functions],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": _search_path()},
                start_new_session=_CAN_FORK,  # so that it can be killed together with its worker
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

    def _await_start(self, request: Request) -> None:
        """Wait for the child's imports, which count towards no call's time."""
        try:
            if self._next_line(request, _START_SECONDS) == _READY + "\n":
                return
        except queue.Empty:
            pass
        self._end()
        raise InvalidOperationError(f"the child process for {self._functions[0]} did not start")


def _end_process(process: subprocess.Popen[str], reader: threading.Thread, owner: int) -> None:
    """Kill the child and its worker; that ends their output, and with it the thread that reads
    it."""
    if os.getpid() != owner:  # a fork of the process that started it
        return
    if _CAN_FORK and process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # what was to be written has no reader
            process.stdin.close()
    if reader is not threading.current_thread():  # garbage may be collected in any thread
        reader.join(_END_SECONDS)


def _forward(pipe: IO[str], lines: queue.SimpleQueue[str | Request]) -> None:
    """Pass lines on as they come; an empty one means that the process has ended.

    Nothing else touches the pipe: closing it during a read would wait for the reader.
    """
    with pipe, contextlib.suppress(ValueError):  # something printed there is not UTF-8
        for line in pipe:
            lines.put(line)
    lines.put("")


def serve() -> None:
    """What the child process runs: one call per line, until its input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what the function prints is not an answer
    call, *warm_up = (getattr(import_module(m), n) for m, n in (f.split(":") for f in sys.argv[1:]))
    for function in warm_up:
        function()
    print(_READY, file=answers, flush=True)
    if not _CAN_FORK:
        for line in sys.stdin:
            arguments = json.loads(line)[1:]
            print(_answer(call, arguments), file=answers, flush=True)
        return
    is_busy = mmap.mmap(-1, 1)  # shared with the workers
    while _worker_was_killed(lambda: _serve_calls(call, answers, is_busy)):
        if is_busy[0]:
            is_busy[0] = 0
            with contextlib.suppress(BrokenPipeError):  # the parent is gone, as the next one sees
                print(_LATE, file=answers, flush=True)


def _worker_was_killed(serve_calls: Callable[[], None]) -> bool:
    """Fork a worker and wait for its end: by a signal, or because there are no more calls."""
    worker = os.fork()
    if worker == 0:
        try:
            serve_calls()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(worker, 0)[1])


def _serve_calls(call: Callable[..., Any], answers: IO[str], is_busy: mmap.mmap) -> None:
    import resource  # which Windows does not have

    with contextlib.suppress(ValueError, OSError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    for line in sys.stdin:
        is_busy[0] = 1
        seconds, *arguments = json.loads(line)
        _kill_after(seconds)
        result = _answer(call, arguments)
        _kill_after(0)
        print(result, file=answers, flush=True)
        is_busy[0] = 0


def _kill_after(seconds: float) -> None:
    """Have the kernel kill this process then, whatever it is doing; never for 0 seconds."""
    for clock, number, factor in (
        (signal.ITIMER_PROF, signal.SIGPROF, 1.0),
        (signal.ITIMER_REAL, signal.SIGALRM, WAIT_FACTOR),
    ):
        signal.signal(number, signal.SIG_DFL)
        signal.setitimer(clock, seconds * factor)


def _answer(call: Callable[..., Any], arguments: list[Any]) -> str:
    """The call's result as JSON; null if it raised."""
    try:
        return json.dumps(call(*arguments))
    except Exception:  # whatever computer algebra raises, the answer is "not known"
        return "null"
