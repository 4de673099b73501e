"""How many cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from rfprm_runtime.ground.arguments import check_whole

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(requested: int | None = None) -> int:
    """``requested``, or by default all cores that the process may use.

    Raises :class:`InvalidArgumentError` if ``requested`` is not a number of cores.
    """
    if requested is None:
        # Containers often pin a process to some of the cores, or limit its time on them.
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else (os.cpu_count() or 1)
        )
        return min(cores, _cores_of_quota(_CGROUPS) or cores)
    check_whole("num_threads", requested)
    return requested


def _cores_of_quota(cgroups: Path) -> int | None:
    """How many cores' time a container may use (``docker --cpus``), rounded up; None for all.

    Source: cpu.max of Linux's control groups, version 2, and cpu.cfs_quota_us of version 1.
    """
    try:
        if (cgroups / "cpu.max").is_file():
            quota, period = (cgroups / "cpu.max").read_text().split()
        else:
            quota, period = (
                (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        share = int(quota) / int(period)  # "max" and -1 stand for no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return math.ceil(share) if share > 0 else None
