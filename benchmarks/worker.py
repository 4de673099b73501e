"""Runs one engine in its own process: reads one command per line and answers with one line.

Started by :mod:`benchmarks.runner`, for some peers with another environment's Python.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.base import Engine, Row


def main() -> None:
    # Library output must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(fields: dict[str, Any]) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    module, option, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    begin = time.perf_counter()
    try:
        engine = importlib.import_module(f"benchmarks.engines.{module}").load(folder, option)
    except Exception as error:  # any failure of a peer is a result
        answer({"error": f"{type(error).__name__}: {error}"[:500]})
        return
    loaded = {"versions": engine.versions, "load_seconds": time.perf_counter() - begin}
    answer({**loaded, "rss": resident_memory()})
    workloads: dict[str, dict[str, Any]] = {}
    for line in sys.stdin:
        wanted = json.loads(line)
        name = wanted["workload"]
        if name not in workloads:
            workloads[name] = _read(folder / "workloads" / f"{name}.json")
        workload = workloads[name]
        if wanted.get("num_rows"):
            workload = _first_rows(workload, wanted["num_rows"])
        try:
            answer(_run(engine, workload))
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"[:500]})


def _read(path: Path) -> dict[str, Any]:
    workload: dict[str, Any] = json.loads(path.read_text())
    workload["calls"] = [
        [
            Row(
                np.array(row["token_ids"], np.int64),
                np.array(row["markers"], np.int64),
                row["is_whole"],
                row["trace"],
                workload["calibrations"],
            )
            for row in call
        ]
        for call in workload["calls"]
    ]
    return workload


def _first_rows(workload: dict[str, Any], count: int) -> dict[str, Any]:
    calls = []
    for call in workload["calls"]:
        if count:
            calls.append(call[:count])
            count -= len(calls[-1])
    return {"calls": calls}


def _run(engine: Engine, workload: dict[str, Any]) -> dict[str, Any]:
    if "depths" in workload and hasattr(engine, "run_search"):
        begin = time.perf_counter()
        found = engine.run_search(workload["question"], workload["depths"])
        seconds = [time.perf_counter() - begin]
        scores = [[float(score)] for depth in found for score in depth]
    else:
        seconds, scores = [], []
        for call in workload["calls"]:
            begin = time.perf_counter()
            rows = engine.run(call)
            seconds.append(time.perf_counter() - begin)
            # In a search, only the newest step of each candidate is compared.
            kept = [row[-1:] if "depths" in workload else row for row in rows]
            scores += [np.asarray(row, float).tolist() for row in kept]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "scores": scores, "peak_rss": peak, "rss": resident_memory()}


def resident_memory() -> float:
    """Resident memory in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
