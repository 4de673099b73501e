"""Measures tokens per second on independent traces and on candidates of one question.

python -m benchmarks.throughput [--engines rfprm OpenVINO] [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Protocol

from benchmarks.prepare import add_model_options, engines_to_run, prepared
from benchmarks.report import plot_workloads, print_workloads, write_json
from benchmarks.runner import processor_class, run_workloads, say
from benchmarks.workloads import Workloads


class MakeWorkloads(Protocol):
    def __call__(self, source: Workloads, *, quick: bool) -> list[dict[str, Any]]: ...


def workloads(source: Workloads, *, quick: bool) -> list[dict[str, Any]]:
    return [
        source.independent(8 if quick else 64),
        source.solutions(4 if quick else 16),
        source.best_of(4, 2 if quick else 8),
        source.best_of(16, 1 if quick else 4),
        source.long(500, 2 if quick else 8),
        source.long(1000, 2 if quick else 4),
        source.long(2000, 1 if quick else 4),
        *([] if quick else [source.long(8000, 2)]),
    ]


def run_benchmark(name: str, description: str | None, make_workloads: MakeWorkloads) -> None:
    """The command line that throughput, latency and search share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--engines", nargs="*", default=[], help="names or parts of them; all by default"
    )
    parser.add_argument("--workloads", nargs="*", default=[], help="parts of names")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few traces, one round")
    parser.add_argument(
        "--name",
        default=f"{name}-{processor_class()}",
        help="of the files in benchmarks/results (%(default)s)",
    )
    add_model_options(parser)
    options = parser.parse_args()
    say("preparing models and traces")
    folder = prepared(options)
    source = Workloads(folder)
    chosen = [
        workload
        for workload in make_workloads(source, quick=options.quick)
        if not options.workloads or any(part in workload["name"] for part in options.workloads)
    ]
    names = engines_to_run(options.engines)

    def keep(measured: dict[str, Any]) -> Path:
        return write_json(options.name, {"traces": source.source, **measured})

    measured = run_workloads(names, chosen, 1 if options.quick else options.rounds, keep, folder)
    print_workloads(measured)
    print(f"written: {keep(measured)}, {plot_workloads(options.name, measured)}")


if __name__ == "__main__":
    run_benchmark("throughput", __doc__, workloads)
