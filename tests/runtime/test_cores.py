"""How many cores a container lets its processes use."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfprm_runtime.engine import cores
from rfprm_runtime.engine.cores import usable_cores

V1 = {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu.max": "what is this"}, 64),
        (V1, 2),
        ({**V1, "cpu/cpu.cfs_quota_us": "-1\n"}, 64),
    ],
)
def test_a_time_quota_counts_as_cores(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert usable_cores() == expected
    assert usable_cores(7) == 7
