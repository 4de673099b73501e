"""Starts each engine in its own process and times them in turns."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ENGINES, EngineSpec
from benchmarks.prepare import WORK, prepare_venv
from rfprm_runtime.engine.cores import usable_cores

REFERENCE = "transformers fp32, one by one"
_TOO_SLOW = 6.0
"""An engine this many times slower than the fastest runs only once, not in every round."""
_TRIAL_ROWS = 8
_LONG_TRIAL = 10.0
"""Seconds: warming up is a small part of a run this long, so that it need not be repeated."""


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
    def __init__(self, name: str, folder: Path = WORK, setting: str | None = None) -> None:
        """``setting``: one of the engine's, by default the first."""
        spec = ENGINES[name]
        self.name, self.spec, self.versions = name, spec, ""
        self.option = spec.option + (spec.settings[0] if setting is None else setting)
        self._process: subprocess.Popen[str] | None = None
        self.error: str | None = why_left_out(spec, folder)
        if self.error:
            return
        python = sys.executable if spec.venv is None else str(prepare_venv(spec.venv))
        log_name = f"{spec.module}-{self.option.replace('/', '-')}.log"
        log = (folder / "logs" / log_name).absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker", spec.module, self.option, str(folder)],
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

    def run(self, workload: str, num_rows: int | None = None) -> dict[str, Any]:
        """Run all of a workload, or its first rows."""
        assert self._process is not None
        assert self._process.stdin is not None
        wanted = {"workload": workload, "num_rows": num_rows}
        try:
            self._process.stdin.write(json.dumps(wanted) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {"error": f"the process ended with {self._process.wait()}"}
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
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()


def why_left_out(spec: EngineSpec, folder: Path) -> str | None:
    unprepared = [name for name in spec.files if not (folder / name).exists()]
    if unprepared:
        return f"not prepared for this model: {', '.join(unprepared)}"
    missing = [package for package in spec.needs if find_spec(package) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if spec.instructions and not set(spec.instructions) & cpu_flags():
        return f"this CPU has neither {' nor '.join(spec.instructions)}"
    return None


def best_worker(
    name: str, workload: str, folder: Path = WORK
) -> tuple[Worker, dict[str, float | str]]:
    """A worker with the engine's fastest setting, and what was tried: seconds, or an error."""
    settings = ENGINES[name].settings
    if len(settings) == 1 or why_left_out(ENGINES[name], folder):
        return Worker(name, folder), {}
    tried: dict[str, float | str] = {}
    fastest = math.inf
    for setting in settings:
        worker = Worker(name, folder, setting)
        found = tried[setting] = _trial(worker, workload, fastest)
        fastest = min(fastest, found) if isinstance(found, float) else fastest
        worker.close()
        say(f"  {name}{setting}: {tried[setting]}")
    good = {setting: found for setting, found in tried.items() if isinstance(found, float)}
    best = min(good, key=lambda each: good[each], default=settings[0])
    return Worker(name, folder, best), tried


def _trial(worker: Worker, workload: str, fastest: float) -> float | str:
    """Seconds for the first rows, once they have been run, or what went wrong."""
    error, seconds = worker.error, []
    for _ in range(3):
        if error is not None:
            return error
        answer = worker.run(workload, _TRIAL_ROWS)
        error = answer.get("error")
        seconds.append(float(sum(answer.get("seconds", []))))
        if seconds[0] > min(_TOO_SLOW * fastest, _LONG_TRIAL):
            break
    return error or round(min(seconds[1:] or seconds), 4)


def run_workloads(
    names: list[str],
    workloads: list[dict[str, Any]],
    rounds: int,
    keep: Callable[[dict[str, Any]], object],
    folder: Path = WORK,
) -> dict[str, Any]:
    """Time every engine on every workload, alternating between engines in every round.

    ``keep`` gets the results so far after each workload.
    """
    workers, trials = [], {}
    for name in names:
        say(f"loading {name}")
        worker, trials[name] = best_worker(name, workloads[0]["name"], folder)
        if worker.error:
            say(f"  left out: {worker.error}")
        workers.append(worker)
    measured: dict[str, Any] = {
        "environment": environment(),
        "engines": {
            worker.name: {
                "versions": worker.versions,
                "option": worker.option,
                "left_out": worker.error,
                "tried": trials[worker.name],
            }
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
    ours = next((good[name] for name in good if name.startswith("rfprm int16")), None)
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


_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
"""Variables that keep peers from using all that a processor has."""


def environment() -> dict[str, Any]:
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    model, flags = _cpu_field("model name") or platform.processor(), cpu_flags()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": usable_cores(None),
        "instructions": [flag for flag in wanted if flag in flags],
        "limited_by": {name: os.environ[name] for name in _LIMITS if name in os.environ},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


_CLASSES = {
    "amx_int8": "amx",
    "avx512_vnni": "avx512vnni",
    "avx512f": "avx512",
    "avx_vnni": "avxvnni",
    "avx2": "avx2",
}
"""By the best instructions that a processor has, best first."""


def processor_class() -> str:
    """``avx2``, …: results of one class say little about another."""
    flags = cpu_flags()
    found = (name for flag, name in _CLASSES.items() if flag in flags)
    return next(found, platform.machine().lower())


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
