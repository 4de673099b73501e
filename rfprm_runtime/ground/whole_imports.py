"""Imports that a fork waits for, and that an interrupt does not cut in half.

While a thread imports a module it holds a lock of that module. A fork at that moment copies the
lock, taken for ever, and the child hangs when it imports the same module. So what is imported late,
when a model is loaded, is imported here. Scoring imports nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from typing import Any

from rfprm_runtime.ground.running import uninterrupted

_importing = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )


def import_whole(name: str) -> Any:
    """The module ``name``. Raises what its import raises."""
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        return module
    return uninterrupted(lambda: _import(name))


def _import(name: str) -> Any:
    with _importing:
        return import_module(name)
