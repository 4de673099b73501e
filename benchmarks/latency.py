"""Measures the latency of one trace at a time: median and 99th percentile.

python -m benchmarks.latency [--engines rfprm OpenVINO] [--rounds 2] [--quick]
"""

from __future__ import annotations

from benchmarks.throughput import run_benchmark
from benchmarks.workloads import Workloads


def workloads(source: Workloads, *, quick: bool) -> list[dict[str, object]]:
    return [source.one_by_one(5 if quick else 40)]


if __name__ == "__main__":
    run_benchmark("latency", __doc__, workloads)
