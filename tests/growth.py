"""Counts what a call does, so that growth can be tested without a clock."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def num_operations(call: Callable[[], object]) -> int:
    """How many lines of Python a call executes, and how many C functions it calls, if nothing of
    ours is remembered from earlier calls."""
    _forget()
    count = 0

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return on_line

    def on_call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(on_line)
    sys.setprofile(on_call)
    try:
        call()
    finally:
        sys.setprofile(before[1])
        sys.settrace(before[0])
    return count


def _forget() -> None:
    """Empty our caches of values. Caches without a limit hold what a process has once, and stay."""
    for cached in gc.get_objects():
        # Not isinstance, which asks objects for their class, and some warn.
        if type(cached) is not functools._lru_cache_wrapper:
            continue
        is_ours = str(getattr(cached, "__module__", "")).startswith("rfprm_")
        if is_ours and cached.cache_parameters()["maxsize"] is not None:
            cached.cache_clear()


def check_linear(prepare: Callable[[int], Callable[[], object]], size: int) -> None:
    """Fails if four times the input takes more than about four times the operations."""
    small, large = num_operations(prepare(size)), num_operations(prepare(4 * size))
    assert large < 5 * small + 1_000, f"{small} operations at {size}, {large} at four times that"
