"""Prints, writes and plots measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engines import ENGINES
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_training.evaluation.metrics import bootstrap_rows

RESULTS = Path("benchmarks/results")


def write_json(name: str, measured: dict[str, Any], folder: Path = RESULTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_whole(path, json.dumps(measured, indent=1) + "\n")
    return path


def write_markdown(name: str, text: str, folder: Path = RESULTS) -> Path:
    """Beside the JSON of the same name, for the documents."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    write_whole(path, text)
    return path


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column holds names, the others numbers."""
    rules = ["---", *["---:"] * (len(columns) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rules, *rows))


def over_questions(figure: Callable[[np.ndarray], float], rows: np.ndarray) -> list[float]:
    """``figure`` of ``rows`` [questions, …] and the ends of its 95 % interval, by bootstrap."""
    return bootstrap_rows(figure, rows).with_ends


def mean_over_questions(values: Sequence[float] | np.ndarray) -> list[float]:
    """The mean of ``values`` [questions] and the ends of its 95 % interval."""
    return over_questions(lambda some: float(some.mean()), np.asarray(values, dtype=np.float64))


def print_workloads(measured: dict[str, Any]) -> None:
    """Print a table for each workload, then the version of each engine or why it was left out."""
    console = Console(width=118, highlight=False)
    where = measured["environment"]
    console.print(f"{where['cpu']}, {where['cores']} cores, {', '.join(where['instructions'])}")
    for name, workload in measured["workloads"].items():
        table = Table(
            title=f"{name}: {workload['num_traces']} traces in {workload['num_calls']} calls, "
            f"{workload['mean_tokens']:,.0f} tokens on average",
            title_justify="left",
        )
        one_by_one = workload["num_calls"] == workload["num_traces"]
        columns = (
            "engine",
            *(("p50", "p99") if one_by_one else ("tokens/s",)),
            "ours is faster by",
            "mean |difference|",
            "same best",
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "engine" else "right")
        for engine, result in workload["engines"].items():
            if "error" in result:
                table.add_row(engine, "failed")
                continue
            faster, best = result["ours_is_faster_by"], result.get("same_best")
            table.add_row(
                f"[bold]{engine}[/]" if ENGINES[engine].is_ours else engine,
                *(
                    percentiles(result["calls"])
                    if one_by_one
                    else (f"{result['tokens_per_second']:,.0f}",)
                ),
                f"{faster:.2f}×" if faster and engine != "rfprm int16" else "",
                f"{result['mean_difference']:.5f}" if "mean_difference" in result else "",
                f"{best:.0%}" if best is not None else "",
            )
        console.print(table)
    for engine, about in measured["engines"].items():
        state = f"left out, {about['left_out']}" if about["left_out"] else about["versions"]
        if about.get("tried"):
            state += f", {about['option']}, the fastest of {len(about['tried'])} settings"
        console.print(f"{engine}: {state}", style="dim")


def percentiles(rounds: list[list[float]]) -> tuple[str, str]:
    """The median and the 99th percentile over all calls, in milliseconds."""
    calls = [call for calls in rounds for call in calls]
    return tuple(f"{np.percentile(calls, rank) * 1000:.0f} ms" for rank in (50, 99))  # type: ignore[return-value]


def best_peer(workload: dict[str, Any]) -> tuple[str, float]:
    """The fastest other engine, and how many times faster ours is."""
    peers = {
        name: result["ours_is_faster_by"]
        for name, result in workload["engines"].items()
        if not ENGINES[name].is_ours and result.get("ours_is_faster_by")
    }
    name = min(peers, key=lambda peer: peers[peer])
    return name, peers[name]


def plot_workloads(name: str, measured: dict[str, Any], folder: Path = RESULTS) -> Path | None:
    """Plot tokens per second by engine, one panel per workload; None without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    workloads = measured["workloads"]
    figure, axes = pyplot.subplots(
        1, len(workloads), figsize=(1.5 + 3.2 * len(workloads), 4), sharey=True, squeeze=False
    )
    engines = list(measured["engines"])[::-1]
    for axis, (title, workload) in zip(axes[0], workloads.items(), strict=True):
        speeds = [
            workload["engines"].get(engine, {}).get("tokens_per_second", 0) for engine in engines
        ]
        colors = ["#c2410c" if ENGINES[engine].is_ours else "#94a3b8" for engine in engines]
        bars = axis.barh(engines, speeds, color=colors)
        axis.bar_label(bars, [f"{speed:,.0f}" if speed else "–" for speed in speeds], padding=3)
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("tokens per second")
    figure.tight_layout()
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
