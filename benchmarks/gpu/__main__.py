"""Packed torch beside batched transformers on one GPU, and both beside its matrix products.

python -m benchmarks.gpu [--shapes 135M 1.5B 7B] [--minutes 8]

Parity with float32 on a CPU first; then tokens per second on rows of equal and of mixed lengths,
Best-of-16 and a beam search, for random weights in the shapes of SmolLM2-135M, Qwen2.5-1.5B and
Qwen2.5-7B. Writes benchmarks/results/NAME.json after every part, and stops beginning new ones when
the minutes are over.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import parity
from benchmarks.gpu.engines import Packed, Scores, Transformers
from benchmarks.gpu.models import SHAPES, random_network
from benchmarks.gpu.workloads import Search, best_of, independent, operations
from benchmarks.report import write_json
from benchmarks.runner import environment
from rfprm_runtime.backends.packed_torch import PackedTorchBackend
from rfprm_runtime.backends.torch import PRMNetwork
from rfprm_runtime.engine.rows import TokenRow

_WARM_UP = 2  # rounds: what comes for the second time is captured as a graph
_CPU_REFERENCE_LARGEST = 3e9
"""Parameters of the largest network whose reference runs on the CPU; on the GPU beyond it."""


@dataclass(frozen=True)
class Workload:
    name: str
    rows: list[TokenRow]
    run: Callable[[Any], Scores]
    """Of an engine."""


def workloads(options: argparse.Namespace, vocab: int) -> Iterator[Workload]:
    for count, length in options.rows:
        for mixed in (False, True) if count > 1 else (False,):
            rows = independent(count, length, vocab, mixed=mixed, seed=length + count)
            name = f"{count} × {'¼–1 · ' if mixed else ''}{length:,}"
            yield Workload(name, rows, lambda engine, rows=rows: engine(rows))  # type: ignore[misc]
    rows = best_of(8, 16, options.answer, vocab)
    yield Workload("Best-of-16, 8 questions", rows, lambda engine: engine(rows))
    search = Search(8, 4, 10, 40, vocab)
    every = [row for round in search.whole_rows() for row in round]
    yield Workload("search, 8 × 4 × 10 steps", every, lambda engine: engine.search(search))


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._device = options, options.device
        self._deadline = time.monotonic() + 60 * options.minutes
        on_gpu = self._device.startswith("cuda")
        self.ceiling = matmul_ceiling(self._device, options.dtype, 8192 if on_gpu else 512)
        self.measured: dict[str, Any] = {
            "environment": environment(),
            "device": torch.cuda.get_device_name() if on_gpu else self._device,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "dtype": options.dtype,
            "ceiling": self.ceiling,
            "operations": parity.of_operations(self._device),
            "shapes": {},
            "left_out": [],
        }
        print(f"{self.measured['device']}: {self.ceiling / 1e12:.1f} TFLOP/s in {options.dtype}")
        for name, apart in self.measured["operations"].items():
            print(f"  {name}: {apart:.1e}")

    def run_shape(self, name: str) -> None:
        began = time.monotonic()
        network = random_network(SHAPES[name], self._device)
        found = self.measured["shapes"].setdefault(name, {})
        found["parity"] = self._parity(network)
        print(f"{name}: {found['parity']}")
        self._save()
        engines = {
            "transformers": Transformers(network, SHAPES[name], self._device, self._options.dtype),
            "packed": Packed(
                PackedTorchBackend(network, device=self._device, dtype=self._options.dtype)
            ),
        }
        del network
        found["workloads"] = {}
        for workload in workloads(self._options, SHAPES[name].vocab_size):
            if time.monotonic() > self._deadline:
                self.measured["left_out"].append(f"{name}: {workload.name}")
                continue
            found["workloads"][workload.name] = self._measure(engines, workload, SHAPES[name])
            self._save()
        found["seconds"] = time.monotonic() - began
        report(name, found)
        print(f"→ {self._save()}", flush=True)
        if self._options.profile:
            profile(engines["packed"], SHAPES[name].vocab_size)  # type: ignore[arg-type]

    def _parity(self, network: PRMNetwork) -> dict[str, Any]:
        size = sum(parameter.numel() for parameter in network.parameters())
        if size > _CPU_REFERENCE_LARGEST:
            # A packed network is a copy, so this one may be the reference.
            return parity.against_reference(network, network, self._device, self._device)
        reference = random_network(network.shape, "meta").to_empty(device="cpu")
        reference.load_state_dict(network.state_dict())
        return parity.against_reference(network, reference, self._device, "cpu")

    def _measure(
        self, engines: dict[str, Any], workload: Workload, shape: Any
    ) -> dict[str, dict[str, float]]:
        """Engines take turns, for as many rounds as there is time for."""
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        scores: dict[str, Scores] = {}
        began, rounds = time.monotonic(), 0
        while rounds < 5 or (rounds < 20 and time.monotonic() - began < self._options.seconds):
            for name, engine in engines.items():
                taken, scores[name] = timed(partial(workload.run, engine), self._device)
                if rounds >= _WARM_UP:
                    seconds[name].append(taken)
            rounds += 1
        tokens = sum(row.num_tokens for row in workload.rows)
        work = operations(shape, workload.rows)
        found = {}
        for name, times in seconds.items():
            median = statistics.median(times)
            found[name] = {
                "tokens": tokens,
                "rounds": len(times),
                "p50": median,
                "max": max(times),
                "tokens_per_second": tokens / median,
                "share_of_ceiling": work / median / self.ceiling,
                "difference": parity.difference(scores[name], scores["transformers"])["max"],
            }
        ratios = [t / p for t, p in zip(seconds["transformers"], seconds["packed"], strict=True)]
        found["packed"]["times_transformers"] = statistics.median(ratios)
        return found

    def _save(self) -> Any:
        return write_json(self._options.name, self.measured)


def matmul_ceiling(device: str, dtype: str, size: int) -> float:
    """Operations a second of a large matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    seconds = [timed(lambda: a @ b, device)[0] for _ in range(12)][2:]
    return 2 * float(size) ** 3 / statistics.median(seconds)


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    _wait(device)
    began = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - began, result


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def profile(packed: Packed, vocab: int) -> None:
    """Where the time of a full pass goes, and what a short one costs the host."""
    from torch.profiler import ProfilerActivity, profile

    for count, length in ((64, 512), (1, 512)):
        rows = independent(count, length, vocab)
        packed(rows)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            packed(rows)
        print(f"{count} × {length}")
        by = "self_cuda_time_total" if count > 1 else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=by, row_limit=14, max_name_column_width=50))


def report(name: str, found: dict[str, Any]) -> None:
    table = Table(title=name, title_justify="left")
    columns = ("rows × tokens", "engine", "p50 ms", "tokens/s", "of the ceiling", "faster", "≠")
    for column in columns:
        table.add_column(column, justify="left" if column == "engine" else "right")
    for workload, engines in found["workloads"].items():
        for engine, row in engines.items():
            faster = row.get("times_transformers", math.nan)
            table.add_row(
                workload,
                engine,
                f"{1e3 * row['p50']:.2f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['share_of_ceiling']:.0%}",
                "" if np.isnan(faster) else f"{faster:.2f}×",
                f"{row['difference']:.1e}",
            )
    Console(width=110, highlight=False).print(table)


def _rows(text: str) -> tuple[int, int]:
    count, _, length = text.partition("x")
    return int(count), int(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["135M", "1.5B", "7B"], choices=SHAPES)
    parser.add_argument(
        "--rows", nargs="+", type=_rows, default=[(1, 512), (64, 512), (64, 2048), (8, 8192)],
        metavar="COUNTxLENGTH",
    )  # fmt: skip
    parser.add_argument("--answer", type=int, default=512, help="tokens of a Best-of-16 candidate")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a workload, at the least")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which none is begun")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--profile", action="store_true", help="print where a pass spends its time")
    parser.add_argument("--name", default="gpu", help="of the file in benchmarks/results")
    options = parser.parse_args()
    bench = Bench(options)
    for name in options.shapes:
        bench.run_shape(name)


if __name__ == "__main__":
    main()
