"""What searches and Best-of-N are worth at the same number of tokens: accuracies with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import mean_over_questions
from rfprm_runtime.ranking import count_votes
from rfprm_training.evaluation.best_of_n import any_right, picked_right

PICKS = ("reward", "weighted vote", "majority vote", "random", "oracle")
"""How an answer is chosen from traces; ``random`` is the chance of a right one."""
CURVE = (1, 4, 16, 64)
"""Numbers of traces at which Best-of-N is shown."""
INDEPENDENT = "Best-of-N"
_DRAWS = 50
"""Random orders in which the traces of Best-of-N are bought until the tokens are spent."""


def pick(traces: Sequence[dict[str, Any]], how: str) -> float:
    """Whether the picked answer is right; for ``random``, the chance of it."""
    if not traces:
        return 0.0
    right = [trace["right"] for trace in traces]
    if how == "random":
        return float(np.mean(right))
    if how == "oracle":
        return float(any(right))
    if how == "reward":
        return float(max(traces, key=lambda trace: trace["reward"])["right"])
    weights = [trace["reward"] if how == "weighted vote" else 1.0 for trace in traces]
    votes = count_votes([trace["answer"] for trace in traces], weights)
    return float(right[votes[0].members[0]]) if votes else 0.0


def affordable(
    traces: Sequence[dict[str, Any]], num_tokens: int, rng: np.random.Generator
) -> Iterator[list[dict[str, Any]]]:
    """Sets of independent traces that cost ``num_tokens`` on average: the last trace is bought
    with a chance."""
    for _ in range(_DRAWS):
        bought, left = [], float(num_tokens)
        for index in rng.permutation(len(traces)):
            trace = traces[int(index)]
            if rng.random() < left / trace["num_tokens"]:
                bought.append(trace)
            left -= trace["num_tokens"]
            if left <= 0:
                break
        yield bought


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The accuracy of each method, and of Best-of-N with as many tokens; tokens and seconds
    (``proposing``, ``scoring``, both) are those of a question."""
    found: dict[str, Any] = {}
    for name in rows[0]["methods"]:
        searches = [row["methods"][name] for row in rows]
        figures = {how: [pick(s["traces"], how) for s in searches] for how in PICKS}
        found[name] = {
            "tokens": float(np.mean([s["num_tokens"] for s in searches])),
            "traces": float(np.mean([len(s["traces"]) for s in searches])),
            "proposing": float(np.mean([s["proposing_seconds"] for s in searches])),
            "scoring": float(np.mean([s["scoring_seconds"] for s in searches])),
            "seconds": float(np.mean([_seconds(s) for s in searches])),
            "accuracy": {how: mean_over_questions(values) for how, values in figures.items()},
        }
        if name != INDEPENDENT:
            rng = np.random.default_rng(0)
            same: dict[str, list[float]] = {how: [] for how in PICKS}
            for row, search in zip(rows, searches, strict=True):
                pool = row["methods"][INDEPENDENT]["traces"]
                sets = list(affordable(pool, search["num_tokens"], rng))
                for how in PICKS:
                    same[how].append(float(np.mean([pick(traces, how) for traces in sets])))
            found[name]["Best-of-N at the same tokens"] = {
                how: mean_over_questions(values) for how, values in same.items()
            }
            found[name]["difference"] = {
                how: mean_over_questions(np.subtract(figures[how], same[how])) for how in PICKS
            }
    return found


def best_of_n_curve(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The accuracy of each way to pick from N of the independent traces, also compared with the
    majority vote on the same questions, and what they cost."""
    rng, found = np.random.default_rng(0), {}
    drawn = [row["methods"][INDEPENDENT] for row in rows]
    pools = [search["traces"] for search in drawn]
    a_trace = [_seconds(search) / max(1, len(search["traces"])) for search in drawn]
    for size in CURVE:
        if size > max(map(len, pools)):
            break
        chances = {how: [_chance(pool, size, how, rng) for pool in pools] for how in PICKS}
        votes = chances["majority vote"]
        found[str(size)] = {
            "tokens": size * float(np.mean([_mean_tokens(pool) for pool in pools])),
            "seconds": size * float(np.mean(a_trace)),
            "accuracy": {how: mean_over_questions(values) for how, values in chances.items()},
            "over the majority vote": {
                how: mean_over_questions(np.subtract(values, votes))
                for how, values in chances.items()
            },
        }
    return found


def plot(measured: dict[str, Any], path: Path) -> None:
    """Accuracy against tokens and against seconds: Best-of-N by ways to pick, searches as points
    picked by reward."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    curve = list(measured["curve"].values())
    searches = {k: v for k, v in measured["methods"].items() if k != INDEPENDENT}
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("tokens", "seconds"), strict=True):
        for how in ("oracle", "weighted vote", "reward", "majority vote", "random"):
            values = np.array([point["accuracy"][how] for point in curve])
            spent = [point[unit] for point in curve]
            (line,) = axes.plot(spent, values[:, 0], marker=".", label=f"Best-of-N, {how}")
            if how == "reward":
                axes.fill_between(spent, *values[:, 1:].T, alpha=0.12, color=line.get_color())
        for name, found in searches.items():
            value, low, high = found["accuracy"]["reward"]
            bars = [[value - low], [high - value]]
            axes.errorbar([found[unit]], [value], yerr=bars, fmt="o", capsize=2, label=name)
        axes.set(xscale="log", xlabel=f"{unit} a question", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    first = figure.axes[0]
    first.set_ylabel("accuracy")
    figure.legend(*first.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=150)


def _chance(pool: Sequence[dict[str, Any]], size: int, how: str, rng: np.random.Generator) -> float:
    """How often the pick from ``size`` traces of the pool is right: exactly, but for votes."""
    size, right = min(size, len(pool)), np.array([trace["right"] for trace in pool], bool)
    if not size or how == "random":
        return pick(pool, how)
    if how == "oracle":
        return any_right(right, size)
    if how == "reward":
        return picked_right(np.array([trace["reward"] for trace in pool]), right, size)
    orders = (rng.permutation(len(pool))[:size] for _ in range(_DRAWS))
    return float(np.mean([pick([pool[i] for i in order], how) for order in orders]))


def _seconds(search: dict[str, Any]) -> float:
    return float(search["proposing_seconds"] + search["scoring_seconds"])


def _mean_tokens(pool: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([trace["num_tokens"] for trace in pool])) if pool else 0.0
