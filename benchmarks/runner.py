"""Starts each engine in its own process and times them in turns."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ENGINES
from benchmarks.prepare import WORK, prepare_venv
from rfprm_runtime.engine.cores import usable_cores

REFERENCE = "transformers fp32, one by one"
_TOO_SLOW = 6.0
"""An engine this many times slower than the fastest runs only once, not in every round."""


@dataclass
class Timing:
    """Times and scores of one engine on one workload."""

    rounds: list[list[float]] = field(default_factory=list)  # seconds of each call
    scores: list[np.ndarray] = field(default_factory=list)
    peak_rss: float = 0.0
    error: str | None = None

    @property
    def totals(self) -> list[float]:
        return [sum(calls) for calls in self.rounds]

    @property
    def median(self) -> float:
        return statistics.median(self.totals)


class Worker:
    def __init__(self, name: str, folder: Path = WORK) -> None:
        spec = ENGINES[name]
        self.name, self.spec, self.versions = name, spec, ""
        self._process: subprocess.Popen[str] | None = None
        missing = [package for package in spec.needs if find_spec(package) is None]
        if missing:
            self.error: str | None = f"not installed: {', '.join(missing)}"
            return
        if spec.instructions and not set(spec.instructions) & cpu_flags():
            self.error = f"this CPU has neither {' nor '.join(spec.instructions)}"
            return
        python = sys.executable if spec.venv is None else str(prepare_venv(spec.venv, folder))
        log = (folder / "logs" / f"{spec.module}-{spec.option}.log").absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", spec.module, spec.option, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"},
        )
        started = self._answer()
        self.error = started.get("error")
        self.versions = started.get("versions", "")
        self.loaded_rss = started.get("rss", 0.0)

    def run(self, workload: str) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"workload": workload}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"the process ended with {self._process.wait()}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


def run_workloads(
    names: list[str],
    workloads: list[dict[str, Any]],
    rounds: int,
    keep: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Time every engine on every workload, alternating between engines in every round.

    ``keep`` gets the results so far after each workload.
    """
    workers = []
    for name in names:
        say(f"loading {name}")
        worker = Worker(name)
        if worker.error:
            say(f"  left out: {worker.error}")
        workers.append(worker)
    measured: dict[str, Any] = {
        "environment": environment(),
        "engines": {
            worker.name: {"versions": worker.versions, "left_out": worker.error}
            for worker in workers
        },
        "workloads": {},
    }
    for workload in workloads:
        timings = _run_one([w for w in workers if not w.error], workload["name"], rounds)
        summary = summarise(timings, workload)
        measured["workloads"][workload["name"]] = {**workload, "engines": summary}
        keep(measured)
    for worker in workers:
        worker.close()
    return measured


def _run_one(workers: list[Worker], workload: str, rounds: int) -> dict[str, Timing]:
    timings = {worker.name: Timing() for worker in workers}
    for turn in range(rounds + 1):  # the first one warms up and counts only for slow engines
        fastest = min((t.totals[-1] for t in timings.values() if t.rounds), default=0.0)
        for worker in workers[turn % len(workers) :] + workers[: turn % len(workers)]:
            timing = timings[worker.name]
            is_slow = timing.rounds and timing.totals[0] > _TOO_SLOW * fastest
            if timing.error or is_slow:
                continue
            answer = worker.run(workload)
            timing.error = answer.get("error")
            if timing.error:
                say(f"  {workload}: {worker.name} failed: {timing.error}")
                continue
            if turn == 1:
                timing.rounds.clear()
            timing.rounds.append(answer["seconds"])
            timing.scores = [np.array(row) for row in answer["scores"]]
            timing.peak_rss = answer["peak_rss"]
        say(f"  {workload}: round {turn} of {rounds}")
    return timings


def summarise(timings: dict[str, Timing], workload: dict[str, Any]) -> dict[str, Any]:
    good = {name: timing for name, timing in timings.items() if not timing.error}
    reference = good.get(REFERENCE) or good.get("rfprm fp32")
    ours = good.get("rfprm int16")
    summary: dict[str, Any] = {}
    for name, timing in timings.items():
        if timing.error:
            summary[name] = {"error": timing.error}
            continue
        summary[name] = {
            "seconds": [round(total, 4) for total in timing.totals],
            "calls": [[round(call, 5) for call in calls] for calls in timing.rounds],
            "tokens_per_second": round(workload["num_tokens"] / timing.median, 1),
            # Within a round, so that a busy machine slows both.
            "ours_is_faster_by": round(
                statistics.median(
                    theirs / own for theirs, own in zip(timing.totals, ours.totals, strict=False)
                ),
                3,
            )
            if ours
            else None,
            "peak_rss_mib": round(timing.peak_rss),
            **(_fidelity(timing.scores, reference.scores, workload) if reference else {}),
        }
    return summary


def _fidelity(
    scores: list[np.ndarray], reference: list[np.ndarray], workload: dict[str, Any]
) -> dict[str, Any]:
    ours, theirs = np.concatenate(scores), np.concatenate(reference)
    fidelity: dict[str, Any] = {"mean_difference": float(np.abs(ours - theirs).mean())}
    size = workload["group_size"]
    if size > 1 and len(scores) % size == 0:
        picks, wanted = (
            np.array([row.mean() for row in rows]).reshape(-1, size).argmax(1)
            for rows in (scores, reference)
        )
        fidelity["same_best"] = float((picks == wanted).mean())
    return fidelity


def environment() -> dict[str, Any]:
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    model, flags = _cpu_field("model name") or platform.processor(), cpu_flags()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": usable_cores(None),
        "instructions": [flag for flag in wanted if flag in flags],
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def cpu_flags() -> set[str]:
    return set(_cpu_field("flags").split())


def _cpu_field(name: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty if there is none."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
