"""Commands that a signal stops at an operation on a file end, when they are run again, with the
bytes of a run that nothing stopped; and leave nothing else. ``scripts/storm.py`` does it at random
for minutes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from interrupted_commands import Commands, Job, commands, contents, unfinished
from interrupted_jobs import (
    DATA_JOBS,
    RUNTIME_JOBS,
    RUNTIME_MODULES,
    TRAINING_JOBS,
    TRAINING_MODULES,
    fresh,
    prepare,
    prepare_base,
)

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def runner() -> Iterator[Commands]:
    with commands(*RUNTIME_MODULES, "rfprm_training.data_commands") as started:
        yield started


def check_every(
    runner: Commands, job: Job, prepared: Path, folder: Path, stride: int, first: int = 1
) -> None:
    """Stop the job at every ``stride``-th operation, go on, and compare."""
    whole = fresh(prepared, folder / "whole")
    ended = runner.run(job.arguments, whole)
    assert ended.status in (0, 3), ended.said
    expected = contents(whole, job)
    assert any(expected.values())
    assert unfinished(whole) == []
    for at in range(first, ended.num_operations + 1, stride):
        stopped = fresh(prepared, folder / f"stopped-{at}")
        number = SIGNALS[at % len(SIGNALS)]
        killed = runner.run(job.arguments, stopped, at=at, signal_number=number)
        assert killed.status not in (0, 3), f"{number!r} at {at} was swallowed: {killed.said}"
        # A stop at the very end leaves a finished output, which some commands do not write again.
        again = runner.run(job.arguments, stopped)
        assert contents(stopped, job) == expected, f"{number!r} at {at}: {again.said}"
        assert unfinished(stopped) == [], f"{number!r} at {at}"


@pytest.mark.parametrize("job", [*RUNTIME_JOBS, *DATA_JOBS], ids=lambda job: job.name)
def test_a_stop_anywhere_costs_nothing_but_time(
    runner: Commands, prepared: Path, tmp_path: Path, job: Job
) -> None:
    check_every(runner, job, prepared, tmp_path, stride=5, first=1 + len(job.name) % 3)
