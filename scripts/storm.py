"""Interrupts every command that writes files, at random, again and again, and compares what it ends
with: ``python scripts/storm.py --minutes 10``.

Each round copies tiny inputs, stops one command a few times (SIGKILL mostly, SIGINT, SIGTERM) at a
random operation on a file or after a random time, lets it run to its end, and compares the bytes of
its results with those of a run that nothing stopped. Nothing else may be left. ``--seed`` repeats a
storm up to the timing. Needs the extras of a development installation.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from interrupted_commands import Commands, Job, commands, contents, unfinished
from interrupted_jobs import (
    DATA_JOBS,
    RUNTIME_JOBS,
    TRAINING_JOBS,
    TRAINING_MODULES,
    fresh,
    prepare,
    prepare_base,
)

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
_ENDED = (0, 3)
"""Exit statuses of a run to the end: all rows, or all but some bad ones."""


class Storm:
    """Rounds over jobs, and what came of them."""

    def __init__(self, runner: Commands, folder: Path, seed: int) -> None:
        self._runner, self._folder, self._random = runner, folder, random.Random(seed)
        self._prepared = folder / "prepared"
        self.rounds: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.failures: list[str] = []

    def prepare(self) -> None:
        self._prepared.mkdir()
        prepare(self._prepared)
        prepare_base(self._prepared)

    def learn(self, job: Job) -> tuple[dict[str, bytes | None], int, float]:
        """The results of a run that nothing stops, its operations and its seconds."""
        place = fresh(self._prepared, self._folder / "round")
        started = time.monotonic()
        ended = self._runner.run(job.arguments, place)
        seconds = time.monotonic() - started
        if ended.status not in _ENDED:
            raise SystemExit(f"{job.name} fails by itself: {ended.said}")
        found = contents(place, job)
        shutil.rmtree(place)
        return found, ended.num_operations, seconds

    def round(
        self, job: Job, expected: dict[str, bytes | None], operations: int, seconds: float
    ) -> None:
        place = fresh(self._prepared, self._folder / "round")
        history = []
        for _ in range(self._random.choice((1, 1, 2, 3))):
            at = self._random.randint(1, operations)
            by_time = self._random.random() < 0.4
            after = self._random.uniform(0, seconds) if by_time else None
            number = self._random.choice(_SIGNALS)
            ended = self._runner.run(
                job.arguments,
                place,
                at=None if by_time else at,
                after=after,
                signal_number=number,
            )
            self.stops[number.name if ended.status not in _ENDED else "too late"] += 1
            history.append(f"{number.name} {f'after {after:.3f} s' if by_time else f'at {at}'}")
        said = self._runner.run(job.arguments, place).said
        self.rounds[job.name] += 1
        wrong = [name for name in expected if contents(place, job).get(name) != expected[name]]
        wrong += [name for name in contents(place, job) if name not in expected]
        if wrong or unfinished(place):
            kept = self._folder / f"failure-{len(self.failures)}"
            place.rename(kept)
            self.failures.append(
                f"{job.name}, {', '.join(history)}: differs in {wrong}, left "
                f"{unfinished(kept)}, kept in {kept}; it said {said[-300:]!r}"
            )
            print(self.failures[-1], flush=True)
        else:
            shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of commands, by their beginning")
    arguments = parser.parse_args()
    only = arguments.only or [""]
    every = (*RUNTIME_JOBS, *DATA_JOBS, *TRAINING_JOBS)
    jobs = [job for job in every if any(job.name.startswith(name) for name in only)]
    folder = Path(tempfile.mkdtemp(prefix="rfprm-storm-"))
    with commands(*TRAINING_MODULES) as runner:
        storm = Storm(runner, folder, arguments.seed)
        storm.prepare()
        learned = {job.name: storm.learn(job) for job in jobs}
        until = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until:
            for job in jobs:
                storm.round(job, *learned[job.name])
    print(f"rounds: {dict(storm.rounds)}\nstops: {dict(storm.stops)}")
    print(f"{len(storm.failures)} failures")
    if storm.failures:
        raise SystemExit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
