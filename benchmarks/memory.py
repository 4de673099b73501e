"""Measures resident memory over time while scoring thousands of traces of mixed length.

python -m benchmarks.memory [--traces 5000]
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

from benchmarks.prepare import WORK, prepare
from benchmarks.report import RESULTS, write_json
from benchmarks.runner import environment, processor_class, say
from benchmarks.worker import resident_memory
from benchmarks.workloads import Workloads
from rfprm_runtime import Scorer

_CHUNK = 256  # traces per call, as when scoring a file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=int, default=5000)
    count = parser.parse_args().traces
    prepare()
    traces = Workloads().mixed(count)["traces"]
    samples: list[tuple[float, float, int]] = []
    done, finished = 0, threading.Event()
    begin = time.perf_counter()

    def sample() -> None:
        while not finished.wait(0.5):
            samples.append((time.perf_counter() - begin, resident_memory(), done))

    watcher = threading.Thread(target=sample)
    watcher.start()
    num_tokens, lengths = 0, []
    try:
        with Scorer.load(WORK / "artifact-int16") as scorer:
            for start in range(0, count, _CHUNK):
                for score in scorer.score_batch(traces[start : start + _CHUNK]):
                    num_tokens += score.num_tokens
                    lengths.append(score.num_tokens)
                done = min(start + _CHUNK, count)
                if start % (_CHUNK * 4) == 0:
                    say(f"{done} traces, {resident_memory():.0f} MiB")
    finally:
        finished.set()
        watcher.join()
    seconds = time.perf_counter() - begin
    measured: dict[str, Any] = {
        "environment": environment(),
        "num_traces": count,
        "num_tokens": num_tokens,
        "shortest": min(lengths),
        "longest": max(lengths),
        "seconds": round(seconds, 1),
        "peak_rss_mib": round(max(rss for _, rss, _ in samples)),
        "rss_mib_by_fifth": _by_fifth([rss for _, rss, _ in samples]),
        "samples": [
            [round(at, 1), round(rss), so_far]
            for at, rss, so_far in samples[:: max(1, len(samples) // 200)]
        ],
    }
    print({key: value for key, value in measured.items() if key not in ("samples", "environment")})
    print(f"written: {write_json(f'memory-{processor_class()}', measured)}, {plot(measured)}")


def _by_fifth(values: list[float]) -> list[dict[str, int]]:
    """Mean and maximum in each fifth of the run, where growth would show."""
    size = max(1, len(values) // 5)
    fifths = [values[index * size : (index + 1) * size] for index in range(5)]
    return [
        {"mean": round(sum(part) / len(part)), "max": round(max(part))} for part in fifths if part
    ]


def plot(measured: dict[str, Any]) -> str | None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    figure, axis = pyplot.subplots(figsize=(8, 3))
    axis.plot([at for at, _, _ in measured["samples"]], [rss for _, rss, _ in measured["samples"]])
    axis.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None))
    axis.set_title(f"{measured['num_traces']:,} traces, {measured['num_tokens']:,} tokens")
    figure.tight_layout()
    path = RESULTS / f"memory-{processor_class()}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return str(path)


if __name__ == "__main__":
    main()
