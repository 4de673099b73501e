"""Commands that a signal stops at an operation on a file end, when they are run again, with the
bytes of a run that nothing stopped; and leave nothing else. ``scripts/storm.py`` does it at random
for minutes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
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
    with commands(*RUNTIME_MODULES) as started:
        yield started


def check_every(runner: Commands, job: Job, prepared: Path, folder: Path, *, stops: int) -> None:
    """Stop the job at about ``stops`` of its operations, go on, and compare. ``scripts/storm.py``
    stops it anywhere."""
    place = fresh(prepared, folder / "here")  # the same one each time: some results name it
    ended = runner.run(job.arguments, place)
    assert ended.status in (0, 3), ended.said
    expected = contents(place, job)
    assert any(expected.values())
    assert unfinished(place) == []
    stride = max(1, ended.num_operations // stops)
    for at in range(1 + len(job.name) % min(3, stride), ended.num_operations + 1, stride):
        shutil.rmtree(place)
        stopped = fresh(prepared, place)
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
    check_every(runner, job, prepared, tmp_path, stops=4)


FULL = {
    "score": 2000,
    "select": 1000,
    "view": 20_000,
    "curate": 2000,
    "label": 2000,
    "export": 9000,
}


@pytest.mark.parametrize(
    "job",
    [job for job in (*RUNTIME_JOBS, *DATA_JOBS, *TRAINING_JOBS) if job.name in FULL],
    ids=lambda job: job.name,
)
def test_a_full_disk_leaves_no_output_and_says_what_to_do(
    runner: Commands, prepared: Path, tmp_path: Path, job: Job
) -> None:
    folder = fresh(prepared, tmp_path / "full")
    before = contents(folder, job)
    ended = runner.run(job.arguments, folder, max_bytes=FULL[job.name])
    assert ended.status == 1
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith("rfprm: cannot write ")
    assert os.strerror(errno.EFBIG) in last
    assert "another disk" in last
    assert "Traceback" not in ended.said
    assert job.results[0] not in contents(folder, job) or contents(folder, job) == before
    runner.run(job.arguments, folder)
    whole = fresh(prepared, tmp_path / "whole")
    runner.run(job.arguments, whole)
    assert contents(folder, job) == contents(whole, job)
    assert unfinished(folder) == []


# The others take minutes: scripts/storm.py stops them.
@pytest.mark.slow
@pytest.mark.parametrize(
    "job",
    [job for job in TRAINING_JOBS if job.name in ("train", "export")],
    ids=lambda job: job.name,
)
def test_a_stop_of_training_anywhere_costs_nothing_but_time(
    prepared: Path, tmp_path: Path, job: Job
) -> None:
    prepare_base(prepared)
    with commands(*TRAINING_MODULES) as runner:
        check_every(runner, job, prepared, tmp_path, stops=2)
