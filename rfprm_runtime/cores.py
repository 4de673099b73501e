"""How many cores this process may use."""

from __future__ import annotations

import os

from rfprm_runtime.arguments import check_whole


def usable_cores(requested: int | None = None) -> int:
    """``requested``, or all cores that the process may run on.

    Raises :class:`InvalidArgumentError` for what is no number of cores.
    """
    if requested is None:
        # Containers often pin fewer cores than there are.
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else (os.cpu_count() or 1)
        )
    check_whole("num_threads", requested)
    return requested
