"""Runs commands that are interrupted where they touch the disk, for tests and ``scripts/storm.py``.

A helper process imports everything once and forks a child for each command. The child counts its
operations on files; it gets a signal as it begins the one that was asked for, or after a time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "ctypes.dlsym"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    """Its exit status, or the negative number of the signal that killed it."""
    num_operations: int
    """Operations on files; 0 after SIGKILL."""
    said: str
    """What it wrote to stderr."""


@dataclass(frozen=True)
class Job:
    """A command, and the files that must be the same after any interruption."""

    name: str
    arguments: list[str]
    results: list[str]
    """Files and folders in the working folder."""
    varies: tuple[str, ...] = field(default=())
    """Names of files in ``results`` that hold times or states, and are not compared."""


class Commands:
    """Starts commands of ``rfprm``. Close it by leaving :func:`commands`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        arguments: list[str],
        folder: Path,
        *,
        at: int | None = None,
        after: float | None = None,
        signal_number: int = signal.SIGKILL,
        max_bytes: int | None = None,
    ) -> Ended:
        """Run ``rfprm ARGUMENTS`` in ``folder``; send the signal at operation ``at`` (from 1), or
        after so many seconds. ``max_bytes``: no file may grow beyond it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = [arguments, str(folder), at, after, int(signal_number), max_bytes]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))


@contextmanager
def commands(*modules: str) -> Iterator[Commands]:
    """``modules``: what to import before the first command."""
    paths = [str(ROOT), str(ROOT / "training"), str(ROOT / "export"), str(ROOT / "tests")]
    with subprocess.Popen(
        [sys.executable, __file__, *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            # Modules that Python compiles on the way would count as operations on files.
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    ) as process:  # which ends when its stdin is closed
        yield Commands(process)


def contents(folder: Path, job: Job) -> dict[str, bytes | None]:
    """The results of a job by name; None for the directory entry alone."""
    found: dict[str, bytes | None] = {}
    for name in job.results:
        place = folder / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in files:
            if path.is_file():
                varies = path.name in job.varies
                found[str(path.relative_to(folder))] = None if varies else path.read_bytes()
    return found


def unfinished(folder: Path) -> list[str]:
    """Names of files that only an unfinished run may leave."""
    marks = (".partial", ".replaced", ".removed", ".spool", ".lock")
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if any(mark in path.name for mark in marks) and "activations" not in path.parts
    )


def _serve() -> None:
    for module in sys.argv[1:]:
        __import__(module)
    for line in sys.stdin:
        print(json.dumps(_answer(*json.loads(line))), flush=True)


def _answer(
    arguments: list[str],
    folder: str,
    at: int | None,
    after: float | None,
    number: int,
    max_bytes: int | None,
) -> list[Any]:
    # Not in the folder, which may be on a full disk.
    place = Path(tempfile.gettempdir()) / f"rfprm-interrupted-{os.getpid()}"
    count, log = place.with_suffix(".operations"), place.with_suffix(".stderr")
    child = os.fork()
    if child == 0:
        if max_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
        _command(arguments, folder, at, number, count, log)
    timer = None
    if after is not None:
        timer = threading.Timer(after, os.kill, (child, number))
        timer.start()
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
        timer.join()
    said = log.read_text(errors="replace")
    num_operations = int(count.read_text() or 0) if count.is_file() else 0
    for path in (count, log):
        path.unlink(missing_ok=True)
    return [os.waitstatus_to_exitcode(status), num_operations, said]


def _command(
    arguments: list[str], folder: str, at: int | None, number: int, count: Path, log: Path
) -> None:
    """In the child: run the command and end the process."""
    status = 70
    try:
        os.chdir(folder)
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        seen = _count_operations(at, number)
        sys.argv = ["rfprm", *arguments]
        from rfprm_runtime.cli.main import main

        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        num_operations = seen[0]
        count.write_text(str(num_operations))
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _count_operations(at: int | None, number: int) -> list[int]:
    seen, is_ours = [0], threading.get_ident()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and bool((arguments[2] or 0) & _WRITES)
        if (event in _EVENTS or writes) and threading.get_ident() == is_ours:
            seen[0] += 1
            if seen[0] == at:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return seen


if __name__ == "__main__":
    _serve()
