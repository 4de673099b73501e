"""Interrupts, forks and threads at any moment: no wrong score, no crash, no hang.

The attacks are in ``tests/attacks``. Each runs here for seconds, and by itself for minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attacks.interrupts import ROOT, start
from attacks.tiny_native import write_tiny_native
from rfprm_runtime.backends.native.library import available_variants

pytestmark = pytest.mark.skipif(
    not available_variants(), reason="the package was built without a C compiler"
)
QUICK = ["latency", "extend", "batch", "sessions without weights", "batcher", "rank", "close"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_native(tmp_path_factory.mktemp("native"))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
@pytest.mark.parametrize(("kind", "most"), [("handovers", 15), ("signals", 6)])
def test_after_an_interrupt_every_score_has_the_same_bits(
    kind: str, most: int, folder: Path
) -> None:
    child = start(kind, QUICK, folder, most=most)
    output, errors = child.communicate()
    assert child.returncode == 0, errors
    assert min(json.loads(output).values()) > most / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_are_told_and_load_their_own(folder: Path) -> None:
    assert _run("forks", f"fork_often(Path({str(folder)!r}), 3)") == {"0": 3}


def test_64_threads_mix_every_call(folder: Path) -> None:
    call = f"mix_calls(Path({str(folder)!r}), num_threads=64, seconds=1.0, seed=1)"
    assert _run("threads", call) > 0


def test_scoring_imports_nothing(folder: Path) -> None:
    """An import during a call would hang a child that was forked meanwhile."""
    assert _run("late_imports", f"late_imports(Path({str(folder)!r}))") == []


def _run(attack: str, call: str) -> object:
    """What ``call`` returns in a new process."""
    code = (
        "import json; from pathlib import Path; "
        f"from attacks.{attack} import *; print(json.dumps({call}))"
    )
    path = [str(ROOT / "tests"), str(ROOT), *filter(None, sys.path)]
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])
