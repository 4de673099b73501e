"""Measures long traces: time and memory against the length of one trace, and what windows cost and
change for each share of context before them.

python -m benchmarks.long_traces [--model ARTIFACT] [--positions 2048] [--traces 12] [--quick]

Windows are compared with the same traces in one piece. So that this truth is known, the model is
given fewer positions than it has (``--positions``).
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepare import WORK
from benchmarks.report import markdown_table, write_json, write_markdown
from benchmarks.runner import environment, processor_class, say
from benchmarks.worker import resident_memory
from benchmarks.workloads import DATA, endless_steps, long_traces, trace_of_length
from rfprm_export.shipped import best_precision, ensure_artifact
from rfprm_export.verify import rank_correlation
from rfprm_runtime import Scorer, Trajectory, TrajectoryScore, Windows

LENGTHS = (1_000, 2_000, 4_000, 8_000, 16_000, 30_000)
CONTEXTS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
_SAMPLE_SECONDS = 0.02
_CLOSING = 64
"""More tokens than close a trace without a response."""


def main() -> None:
    options = _options()
    real = long_traces(options.data)
    if not real:
        print(f"skipped: {options.data} holds no long_cot_aime24.jsonl; pass its folder as --data")
        return
    if options.model is None:
        precision = best_precision()
        options.model = WORK / f"artifact-{precision}"
        ensure_artifact(options.model, precision=precision)
    measured: dict[str, Any] = {"environment": environment()}
    with Scorer.load(options.model) as scorer:
        manifest = scorer.manifest
        measured |= {
            "model": manifest.name,
            "precision": manifest.precision,
            "backend": scorer.backend_description,
            "max_positions": manifest.max_positions,
        }
        measured["lengths"] = measure_lengths(scorer, real, options.lengths, options.rounds)
        if options.traces:
            longest = (
                min(1_500, manifest.max_positions) if options.quick else manifest.max_positions
            )
            positions = options.positions or longest // 4
            traces = chosen_traces(scorer, real, positions, longest)
            contexts = CONTEXTS[::3] if options.quick else CONTEXTS
            measured["windows"] = measure_windows(
                scorer, spread(traces, options.traces), positions, contexts
            )
    text = as_markdown(measured)
    print(text)
    name = options.name
    print(f"written: {write_json(name, measured)}, {write_markdown(name, text)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an artifact, instead of the shipped PRM's")
    parser.add_argument("--data", type=Path, default=DATA, help="of the real traces (%(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", help="of one trace, in tokens")
    parser.add_argument(
        "--positions", type=int, help="of the model in windows; a quarter of its own by default"
    )
    parser.add_argument("--traces", type=int, help="at most, in windows (12); 0 measures none")
    parser.add_argument("--rounds", type=int, help="for each length (3)")
    parser.add_argument("--quick", action="store_true", help="two lengths, traces and contexts")
    parser.add_argument(
        "--name",
        default=f"long_traces-{processor_class()}",
        help="of the files in benchmarks/results (%(default)s)",
    )
    options = parser.parse_args()
    if options.traces is None:
        options.traces = 2 if options.quick else 12
    options.lengths = sorted(options.lengths or (LENGTHS[:2] if options.quick else LENGTHS))
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def measure_lengths(
    scorer: Scorer, real: Sequence[Trajectory], lengths: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Of one trace a call: its seconds in each round, and the peak of resident memory. The lengths
    rise, so that memory kept from a shorter trace hides no peak."""
    pool = endless_steps(real)
    scorer.score(*_short(real))  # warms up
    found = []
    for length in lengths:
        if length > scorer.manifest.max_positions:
            break
        trace = trace_of_length(length, pool, scorer._encoder)
        before, seconds = resident_memory(), []
        with _peak_memory() as peak:
            for _ in range(rounds):
                begin = time.perf_counter()
                score = scorer.score(trace.question, trace.steps, trace.response)
                seconds.append(round(time.perf_counter() - begin, 3))
        found.append(
            {
                "num_tokens": score.num_tokens,
                "num_steps": len(trace.steps),
                "seconds": seconds,
                "ms_per_token": round(min(seconds) * 1000 / score.num_tokens, 4),
                "rss_before_mib": round(before),
                "peak_rss_mib": round(peak[0]),
            }
        )
        say(f"{score.num_tokens:,} tokens: {min(seconds):.1f} s, {peak[0]:.0f} MiB")
    return found


def _short(real: Sequence[Trajectory]) -> tuple[str, Sequence[str]]:
    return real[0].question, real[0].steps[:2]


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """A list of one number: the highest resident memory so far, in MiB."""
    peak, finished = [resident_memory()], threading.Event()

    def sample() -> None:
        while not finished.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], resident_memory())

    watcher = threading.Thread(target=sample)
    watcher.start()
    try:
        yield peak
    finally:
        finished.set()
        watcher.join()


def measure_windows(
    scorer: Scorer, traces: Sequence[Trajectory], positions: int, contexts: Sequence[float]
) -> dict[str, Any]:
    """Score ``traces`` in one piece, and with ``positions`` in windows."""
    whole, seconds = _timed(scorer, traces, Windows())
    num_tokens = [score.num_tokens for score in whole]
    say(f"{len(traces)} traces, {sum(num_tokens):,} tokens in one piece: {seconds:.1f} s")
    found: dict[str, Any] = {
        "positions": positions,
        "num_tokens": num_tokens,
        "seconds_in_one_piece": round(seconds, 3),
        "contexts": [],
    }
    fewer = limited(scorer, positions)
    for context in contexts:
        scores, seconds = _timed(fewer, traces, Windows(context))
        found["contexts"].append(
            {"context": context, "seconds": round(seconds, 3), **compare(whole, scores)}
        )
        say(f"context {context}: {seconds:.1f} s")
    return found


def _timed(
    scorer: Scorer, traces: Sequence[Trajectory], windows: Windows
) -> tuple[list[TrajectoryScore], float]:
    begin = time.perf_counter()
    scores = scorer.score_batch(traces, overflow=windows)
    return scores, time.perf_counter() - begin


def limited(scorer: Scorer, positions: int) -> Scorer:
    """The same model on the same backend, as if it had so few positions."""
    manifest = scorer.manifest.model_copy(update={"max_positions": positions})
    return Scorer(manifest, scorer._encoder, scorer._engine._backend)


def chosen_traces(
    scorer: Scorer, real: Sequence[Trajectory], positions: int, longest: int
) -> list[Trajectory]:
    """The ``real`` traces of up to ``longest`` tokens that need windows with so few ``positions``,
    by length. Of longer ones the first steps are taken.

    Raises :class:`SystemExit` if there is none."""
    encode = scorer._encoder.encode
    found: list[tuple[int, Trajectory]] = []
    for trace in real:
        row = encode(trace)
        if row.num_tokens > longest:
            num_steps = int(np.searchsorted(row.step_bounds, longest - _CLOSING, side="right")) - 1
            trace = Trajectory(question=trace.question, steps=trace.steps[: max(1, num_steps)])
            row = encode(trace)
        closing = row.num_tokens - row.step_bounds[-1]
        part = max(int(np.diff(row.step_bounds).max()), int(closing))
        if positions < row.num_tokens <= longest and row.num_prefix_tokens + part <= positions:
            found.append((row.num_tokens, trace))
    if not found:
        raise SystemExit(
            f"no trace of up to {longest} tokens can be scored in windows of {positions} positions"
        )
    return [trace for _, trace in sorted(found, key=lambda pair: pair[0])]


def spread(traces: Sequence[Trajectory], count: int) -> Sequence[Trajectory]:
    """At most ``count`` of them, at equal distances."""
    return traces[:: max(1, len(traces) // count)][:count]


def compare(
    whole: Sequence[TrajectoryScore], windowed: Sequence[TrajectoryScore]
) -> dict[str, Any]:
    """What windows cost, and how far their scores are from those of the ``whole`` traces."""
    num_steps = sum(len(score.step_scores) for score in whole)
    num_exact = sum(
        len(score.step_scores) if score.windowed_from is None else score.windowed_from
        for score in windowed
    )
    num_run = sum(score.num_run_tokens or 0 for score in windowed)
    both = (whole, windowed)
    return {
        "run_tokens_per_token": round(num_run / sum(score.num_tokens for score in whole), 4),
        "steps_with_whole_past": round(num_exact / max(1, num_steps), 4),
        "steps": _difference(*(np.concatenate([s.step_scores for s in each]) for each in both)),
        "trajectory": _difference(*(_trajectory_scores(each) for each in both)),
        "reward": _difference(*([score.reward for score in each] for each in both)),
    }


def _trajectory_scores(scores: Sequence[TrajectoryScore]) -> list[float]:
    return [s.trajectory_score for s in scores if s.trajectory_score is not None]


def _difference(whole: Any, windowed: Any) -> dict[str, float | None] | None:
    """Of scores in the same order; None if there are none."""
    a, b = (np.asarray(scores, np.float64) for scores in (whole, windowed))
    if not len(a):
        return None
    return {
        "mean": float(np.abs(b - a).mean()),
        "max": float(np.abs(b - a).max()),
        "bias": float((b - a).mean()),
        "spearman": rank_correlation(a, b),
    }


def as_markdown(measured: dict[str, Any]) -> str:
    """A table of lengths, one of windows if there were any, and what they were measured on."""
    where = measured["environment"]
    text = (
        f"{measured['model']} in {measured['precision']}, {measured['backend']}, {where['cpu']}, "
        f"{where['cores']} cores, {where['date']}.\n\n"
    ) + markdown_table(
        ("tokens of one trace", "seconds", "ms a token", "tokens/s", "peak MiB"),
        map(_length_cells, measured["lengths"]),
    )
    return text + (_windows_as_markdown(measured["windows"]) if "windows" in measured else "")


def _windows_as_markdown(windows: dict[str, Any]) -> str:
    tokens = windows["num_tokens"]
    return (
        f"\n{len(tokens)} traces of {min(tokens):,} to {max(tokens):,} tokens in windows of "
        f"{windows['positions']:,} positions; in one piece: "
        f"{windows['seconds_in_one_piece']:.1f} seconds.\n\n"
        + markdown_table(
            (
                "context",
                "tokens run per token",
                "seconds",
                "steps with whole past",
                "step scores, mean and max difference",
                "Spearman",
                "trajectory scores",
                "Spearman",
                "rewards",
                "Spearman",
            ),
            map(_context_cells, windows["contexts"]),
        )
    )


def _length_cells(found: dict[str, Any]) -> list[str]:
    seconds, ms = min(found["seconds"]), found["ms_per_token"]
    speed, peak = 1000 / ms, found["peak_rss_mib"]
    return [f"{found['num_tokens']:,}", f"{seconds:.2f}", f"{ms:.2f}", f"{speed:,.0f}", f"{peak:,}"]


def _context_cells(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['context']:g}",
        f"{found['run_tokens_per_token']:.2f}",
        f"{found['seconds']:.1f}",
        f"{found['steps_with_whole_past']:.0%}",
        *(cell for kind in ("steps", "trajectory", "reward") for cell in _cells(found[kind])),
    ]


def _cells(difference: dict[str, float | None] | None) -> tuple[str, str]:
    if difference is None:
        return "–", "–"
    rank = difference["spearman"]
    return (
        f"{difference['mean']:.4f}, {difference['max']:.4f}",
        "–" if rank is None else f"{rank:.4f}",
    )


if __name__ == "__main__":
    main()
