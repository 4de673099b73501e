"""What a child process of the tests runs."""

import os
import signal
import time


def slowly(text: str, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return text


_prepared = False


def prepare() -> None:
    """Takes longer than the calls may."""
    global _prepared
    time.sleep(1.0)
    _prepared = True


def is_prepared() -> bool:
    return _prepared


def spin() -> None:
    """One call of a C function that nothing in Python can interrupt."""
    pow(3, 10**9)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
