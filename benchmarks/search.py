"""Times a step search with 8 beams, 4 expansions and 10 steps (4, 2 and 5 with ``--quick``); peers
score whole prefixes.

python -m benchmarks.search [--engines rfprm OpenVINO] [--rounds 2]
"""

from __future__ import annotations

from benchmarks.throughput import run_benchmark
from benchmarks.workloads import Workloads


def workloads(source: Workloads, *, quick: bool) -> list[dict[str, object]]:
    if quick:
        return [source.search(num_beams=4, num_expansions=2, num_depths=5)]
    return [source.search()]


if __name__ == "__main__":
    run_benchmark("search", __doc__, workloads)
