"""Swaps two folders in one operation, where the system can (Linux): neither is ever missing."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_AT_CURRENT_FOLDER = -100
_EXCHANGE = 2


def swap(one: Path, other: Path) -> bool:
    """Exchange the names of ``one`` and ``other``; False if this system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no "this process"
        return False
    names = (os.fsencode(one), os.fsencode(other))
    done: int = rename(_AT_CURRENT_FOLDER, names[0], _AT_CURRENT_FOLDER, names[1], _EXCHANGE)
    return done == 0
