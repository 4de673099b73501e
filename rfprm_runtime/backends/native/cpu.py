"""What this processor can do, as the operating system lists it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cpu_features() -> frozenset[str]:
    """Lower-case names as in Linux's ``/proc/cpuinfo``: ``avx2``, ``avx512_vnni``, ``asimddp``.

    Empty if the system does not say; the portable kernels run then.
    """
    if sys.platform == "darwin":
        return _darwin_features()
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:  # the first core's: the kernel lists only what all of them have
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.lower().split())
    return frozenset()


def _darwin_features() -> frozenset[str]:
    """Intel Macs use other names than Linux only for AVX-512; ARM Macs list nothing."""
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(found.stdout.lower().split())
