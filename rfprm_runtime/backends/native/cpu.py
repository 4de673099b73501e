"""What this processor can do, as the operating system lists it, and allows this process to do."""

from __future__ import annotations

import ctypes
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
            return _permitted(frozenset(value.lower().split()))
    return frozenset()


def _permitted(features: frozenset[str]) -> frozenset[str]:
    """Without those of AMX if this process may not use them."""
    if "amx_tile" in features and not _ask_for_tiles():
        return frozenset(name for name in features if not name.startswith("amx_"))
    return features


def _ask_for_tiles() -> bool:
    """AMX's tiles add 8 KB to the state of each thread that uses them, so Linux gives them only to
    processes that ask: since 5.16, and not if a thread's stack for signals is too small for them.
    Asking again changes nothing; forked processes need not ask."""
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    call = ctypes.CDLL(None).syscall
    call.restype = ctypes.c_long
    arguments = (ctypes.c_long(number) for number in (arch_prctl, request_permission, tile_data))
    return bool(call(*arguments) == 0)


_INTEL_MAC = ("machdep.cpu.features", "machdep.cpu.leaf7_features")
"""They list features by name; only those of AVX-512 are spelled as Linux does not."""
_ARM_MAC = {"hw.optional.arm.FEAT_DotProd": "asimddp", "hw.optional.arm.FEAT_I8MM": "i8mm"}
"""Each is 1, 0 or unknown to the system; and what Linux calls it."""


def _darwin_features() -> frozenset[str]:
    command = ["/usr/sbin/sysctl", *_INTEL_MAC, *_ARM_MAC]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return _features_of_sysctl(done.stdout)


def _features_of_sysctl(output: str) -> frozenset[str]:
    """``output``: a line ``key: value`` for each key that the system knows."""
    values = {
        key: value.strip() for key, _, value in (row.partition(":") for row in output.split("\n"))
    }
    listed = " ".join(values.get(key, "") for key in _INTEL_MAC).lower().split()
    return frozenset(listed) | {name for key, name in _ARM_MAC.items() if values.get(key) == "1"}
