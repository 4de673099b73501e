"""Measures which share of the time is not spent in the kernels: rendering, tokenising, planning,
pages and readout.

python -m benchmarks.host_costs [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.prepare import WORK, prepare
from benchmarks.report import write_json
from benchmarks.runner import environment, processor_class
from benchmarks.workloads import Workloads
from rfprm_runtime import Scorer, Trajectory


class TimedLibrary:
    """The kernels, and the seconds spent in them."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def rfprm_run(self, *arguments: Any) -> None:
        begin = time.perf_counter()
        self._library.rfprm_run(*arguments)
        self.seconds += time.perf_counter() - begin


def timed_scorer(artifact: Path) -> tuple[Scorer, TimedLibrary]:
    """On one thread, so that what is not in the kernels is the host's."""
    scorer = Scorer.load(artifact, backend="native", num_threads=1)
    backend: Any = scorer._engine._backend
    library = backend._library = TimedLibrary(backend._library)
    return scorer, library


def measure(
    scorer: Scorer, library: TimedLibrary, calls: list[list[Trajectory]], rounds: int
) -> dict[str, float]:
    """Milliseconds a trace, in all and outside the kernels: medians of the rounds, the first of
    which does not count."""
    totals, hosts = [], []
    for _ in range(rounds + 1):
        library.seconds = 0.0
        begin = time.perf_counter()
        for call in calls:
            scorer.score_batch(call)
        totals.append(time.perf_counter() - begin)
        hosts.append(totals[-1] - library.seconds)
    per_trace = 1000 / sum(len(call) for call in calls)
    total, host = statistics.median(totals[1:]), statistics.median(hosts[1:])
    return {"total_ms": total * per_trace, "host_ms": host * per_trace, "share": host / total}


def session_steps(scorer: Scorer, library: TimedLibrary, trace: Trajectory) -> dict[str, float]:
    """The same of steps that are scored one by one by a session."""
    session = scorer.session(trace.question)
    session.extend(trace.steps[:1])
    library.seconds = 0.0
    begin = time.perf_counter()
    for step in trace.steps[1:]:
        session.extend([step])
    total = time.perf_counter() - begin
    count = 1000 / (len(trace.steps) - 1)
    host = total - library.seconds
    return {"total_ms": total * count, "host_ms": host * count, "share": host / total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    prepare()
    source = Workloads()
    solutions = [group[0] for group in source.groups[-32:]]
    short = [
        Trajectory(question=f"What is {i} + 4?", steps=(f"{i} + 4 = {i + 4}",)) for i in range(64)
    ]
    workloads = {
        "32 solutions in one call": [solutions],
        "32 solutions, one a call": [[trace] for trace in solutions],
        "64 traces of about 20 tokens in one call": [short],
        "64 traces of about 20 tokens, one a call": [[trace] for trace in short],
    }
    scorer, library = timed_scorer(WORK / "artifact-int16")
    found: dict[str, Any] = {}
    for name, calls in workloads.items():
        found[name] = measure(scorer, library, calls, options.rounds)
        lengths = [scorer._encoder.encode(trace).num_tokens for call in calls for trace in call]
        found[name]["mean_tokens"] = statistics.mean(lengths)
    found["steps of a solution, one by one in a session"] = min(
        (session_steps(scorer, library, solutions[0]) for _ in range(options.rounds)),
        key=lambda each: each["total_ms"],
    )
    where = environment()
    table = Table(title=f"{scorer.backend_description} of {where['cpu']}", title_justify="left")
    for column in ("work", "tokens", "ms a trace or step", "outside the kernels", "share"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for name, each in found.items():
        tokens = f"{each['mean_tokens']:.0f}" if "mean_tokens" in each else ""
        table.add_row(
            name,
            tokens,
            f"{each['total_ms']:.2f}",
            f"{each['host_ms']:.3f} ms",
            f"{each['share']:.1%}",
        )
    Console(width=118, highlight=False).print(table)
    measured = {"environment": where, "backend": scorer.backend_description, "work": found}
    print(f"written: {write_json(f'host_costs-{processor_class()}', measured)}")


if __name__ == "__main__":
    main()
