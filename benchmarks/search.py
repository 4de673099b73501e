"""Times a step search with 8 beams, 4 expansions and 10 steps; peers score whole prefixes.

python -m benchmarks.search [--engines rfprm OpenVINO] [--rounds 2]
"""

from __future__ import annotations

from benchmarks.throughput import run_benchmark
from benchmarks.workloads import Workloads


def workloads(source: Workloads, *, quick: bool) -> list[dict[str, object]]:
    return [source.search()]


if __name__ == "__main__":
    run_benchmark("search", __doc__, workloads)
