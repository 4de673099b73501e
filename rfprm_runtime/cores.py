"""How many cores this process may use."""

from __future__ import annotations

import os

from rfprm_runtime.errors import BackendError


def usable_cores(requested: int | None = None) -> int:
    """``requested``, or all cores that the process may run on.

    Raises :class:`BackendError` where fewer than one is requested.
    """
    if requested is None:
        # Containers often pin fewer cores than there are.
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else (os.cpu_count() or 1)
        )
    if requested < 1:
        raise BackendError(f"num_threads is {requested}, expected at least 1")
    return requested
