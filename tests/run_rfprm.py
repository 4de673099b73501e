"""Runs ``rfprm`` in this process, which spares each test the seconds that a new one takes."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def rfprm(*arguments: object, stdin: str = "", encoding: str = "utf-8", columns: int = 200) -> Done:
    """``rfprm ARGUMENTS``, printing in ``encoding`` to a terminal of ``columns``."""
    from rfprm_runtime.cli.main import main

    shown, said = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(shown), redirect_stderr(said):
        patch.setattr(sys, "argv", ["rfprm", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        patch.setitem(os.environ, "COLUMNS", str(columns))
        try:
            main()
            status = 0
        except SystemExit as end:
            if isinstance(end.code, str):  # as Python itself does
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Done(status, _text(shown, encoding), _text(said, encoding))


def _text(stream: io.TextIOWrapper, encoding: str) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(encoding)
