"""Compares guided search with Best-of-N at the same number of generated tokens, on real problems.

python -m experiments.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --policy runs/small-policy/model [--questions 100]
python -m experiments.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --server http://localhost:8080/v1 --served qwen2.5-coder-1.5b --traces 64
python -m experiments.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --model qwen2.5-coder-1.5b-instruct-q4_k_m.gguf --traces 64

The policy is one of `experiments.small_policy`, a chat model behind an OpenAI-compatible server, or
one of the Qwen family that runs here, on a GPU if there is one.
The problems are those of GSM8K that neither the small policy nor the PRM was trained on. Resumable.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import mean_over_questions, write_json
from benchmarks.runner import environment
from experiments import RESULTS
from experiments.policies import SmallPolicy, TorchPolicy, served_policy
from experiments.problems import held_out_questions
from rfprm_export.base_model import read_base_model
from rfprm_export.shipped import ensure_artifact
from rfprm_runtime import Scorer
from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.reranker import count_votes
from rfprm_runtime.scores.aggregation import aggregate
from rfprm_runtime.search import (
    BeamSearch,
    BestFirstSearch,
    BestOfN,
    Budget,
    DiverseTreeSearch,
    Searcher,
    SearchResult,
)
from rfprm_runtime.search.completion_proposer import CompletionProposer
from rfprm_training.evaluation.best_of_n import any_right, picked_right
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions
from rfprm_training.resumable import ResumableLines

SEARCHES: dict[str, dict[str, Any]] = {
    "beam search": {"strategy": BeamSearch(4, 4)},
    "beam search, by reward": {"strategy": BeamSearch(4, 4), "value": "reward"},
    "diverse trees": {"strategy": DiverseTreeSearch(4, 4)},
    "diverse trees, by reward": {"strategy": DiverseTreeSearch(4, 4), "value": "reward"},
    "best-first": {"strategy": BestFirstSearch(4, 4), "value": "mean"},
}
PICKS = ("reward", "weighted vote", "majority vote", "random", "oracle")
CURVE = (1, 4, 16, 64)
"""Numbers of traces at which Best-of-N is shown."""
_AT_ONCE = 4
_AT_ONCE_HERE = 50
_DRAWS = 50
"""Random orders in which the traces of Best-of-N are bought until the tokens are spent."""


def methods(num_traces: int) -> dict[str, dict[str, Any]]:
    return {"Best-of-N": {"strategy": BestOfN(num_traces)}, **SEARCHES}


def problems(gold: Path, count: int, max_steps: int) -> list[GoldSolution]:
    """Problems held out from all training, whose solutions have at most ``max_steps`` steps."""
    solutions = read_gold_solutions(gold)
    held_out = held_out_questions(solutions)
    found = [s for s in solutions if s.question in held_out and len(s.steps) <= max_steps]
    return found[:count]


def run(
    scorer: Scorer,
    policy: SmallPolicy | CompletionProposer | TorchPolicy,
    asked: Sequence[GoldSolution],
    output: Path,
    key: dict[str, Any],
    budget: Budget,
    *,
    num_traces: int,
    at_once: int = _AT_ONCE,
) -> list[dict[str, Any]]:
    """One row per question: what each method found and spent. ``num_traces``: N of Best-of-N.
    ``at_once`` questions are searched together and share their time."""
    if output.exists():
        return [json.loads(line) for line in output.read_text().splitlines()]
    with ResumableLines(output, key) as lines:
        first = lines.num_lines // at_once * at_once
        for start in range(first, len(asked), at_once):
            batch = asked[start : start + at_once]
            rows: list[dict[str, Any]] = [{"question": s.question, "methods": {}} for s in batch]
            for name, options in methods(num_traces).items():
                # Best-of-N is drawn whole, and bought from afterwards.
                of_method = replace(budget, max_tokens=None) if name == "Best-of-N" else budget
                searcher = Searcher(scorer, policy, budget=of_method, **options)
                results = searcher.search_many([s.question for s in batch])
                for row, solution, result in zip(rows, batch, results, strict=True):
                    row["methods"][name] = _outcome(result, solution.answer, len(batch))
            written = lines.num_lines - start
            for row in rows[written:]:
                lines.write(json.dumps(row) + "\n")
            print(f"{start + len(batch)} of {len(asked)} questions", flush=True)
        lines.finish()
    return [json.loads(line) for line in output.read_text().splitlines()]


def _outcome(result: SearchResult, answer: str, num_together: int) -> dict[str, Any]:
    traces = []
    for node in result.finished:
        given = final_answer("\n".join(result.tree.path(node)))
        assert node.score is not None
        trace = {
            "answer": given,
            "right": answers_agree(given, answer) is True,
            "reward": aggregate(node.score, "reward"),
            "num_tokens": sum(step.num_tokens for step in result.tree.ancestors(node)),
        }
        traces += [trace] * node.num_proposed
    spent = result.spent
    return {
        "traces": traces,
        "num_tokens": spent.num_tokens,
        "num_steps": spent.num_steps,
        "proposing_seconds": spent.proposing_seconds / num_together,
        "scoring_seconds": spent.scoring_seconds / num_together,
    }


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
    """The accuracy of each method, and of Best-of-N with as many tokens."""
    found: dict[str, Any] = {}
    for name in ("Best-of-N", *SEARCHES):
        searches = [row["methods"][name] for row in rows]
        figures = {how: [pick(s["traces"], how) for s in searches] for how in PICKS}
        found[name] = {
            "tokens": float(np.mean([s["num_tokens"] for s in searches])),
            "traces": float(np.mean([len(s["traces"]) for s in searches])),
            "proposing": sum(s["proposing_seconds"] for s in searches),
            "scoring": sum(s["scoring_seconds"] for s in searches),
            "accuracy": {how: mean_over_questions(values) for how, values in figures.items()},
        }
        if name != "Best-of-N":
            rng = np.random.default_rng(0)
            same: dict[str, list[float]] = {how: [] for how in PICKS}
            for row, search in zip(rows, searches, strict=True):
                pool = row["methods"]["Best-of-N"]["traces"]
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
    """The accuracy of each way to pick from N of the independent traces, and what they cost."""
    rng, found = np.random.default_rng(0), {}
    pools = [row["methods"]["Best-of-N"]["traces"] for row in rows]
    for size in CURVE:
        if size > max(map(len, pools)):
            break
        found[str(size)] = {
            "tokens": size * float(np.mean([_mean_tokens(pool) for pool in pools])),
            "accuracy": {
                how: mean_over_questions([_chance(pool, size, how, rng) for pool in pools])
                for how in PICKS
            },
        }
    return found


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


def _mean_tokens(pool: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([trace["num_tokens"] for trace in pool])) if pool else 0.0


def report(measured: dict[str, Any]) -> None:
    table = Table(title=f"{measured['num_questions']} problems", title_justify="left")
    for column in ("method", "tokens", "traces", *PICKS):
        table.add_column(column, justify="left" if column == "method" else "right")

    def cells(figures: dict[str, list[float]]) -> list[str]:
        return ["{:.3f} [{:.3f}, {:.3f}]".format(*figures[how]) for how in PICKS]

    for size, found in measured["curve"].items():
        table.add_row(f"Best-of-{size}", f"{found['tokens']:,.0f}", size, *cells(found["accuracy"]))
    table.add_section()
    for name, found in measured["methods"].items():
        tokens, traces = f"{found['tokens']:,.0f}", f"{found['traces']:.1f}"
        table.add_row(name, tokens, traces, *cells(found["accuracy"]))
        if "difference" in found:
            same = found["Best-of-N at the same tokens"]
            table.add_row("  Best-of-N, same tokens", tokens, "", *cells(same))
            table.add_row("  difference", "", "", *cells(found["difference"]), end_section=True)
    Console(width=190, highlight=False).print(table)


def _policy(options: argparse.Namespace) -> SmallPolicy | CompletionProposer | TorchPolicy:
    if options.policy is not None:
        return SmallPolicy(options.policy, temperature=options.temperature, seed=0)
    if options.model is not None:
        return TorchPolicy(read_base_model(options.model), temperature=options.temperature)
    return served_policy(
        options.server,
        options.served,
        temperature=options.temperature,
        concurrency=options.concurrency,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gold", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--policy", type=Path, help="the folder of a small policy")
    parser.add_argument("--server", help="or the base URL of a server")
    parser.add_argument("--served", help="the name of its model")
    parser.add_argument("--model", type=Path, help="or a GGUF file or folder")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at once")
    parser.add_argument("--artifact", type=Path, help="of the PRM (the shipped one in int16)")
    parser.add_argument("--traces", type=int, default=32, help="N of Best-of-N")
    parser.add_argument("--tokens", type=int, default=2000, help="that a search may generate")
    parser.add_argument("--depth", type=int, default=8, help="steps of a trace, at most")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--max-steps", type=int, default=3, help="of the problems' gold solutions")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--output", type=Path, default=Path("runs/guided-search.jsonl"))
    parser.add_argument("--name", default="guided_search", help="of the result (%(default)s)")
    options = parser.parse_args()
    if sum(x is not None for x in (options.policy, options.server, options.model)) != 1:
        parser.error("give a --policy, a --server or a --model")
    if options.server is not None and options.served is None:
        parser.error("--server needs the name of a model (--served)")
    asked = problems(options.gold, options.questions, options.max_steps)
    artifact = options.artifact or Path("artifacts/benchmarks/artifact-int16")
    if options.artifact is None:
        ensure_artifact(artifact, precision="int16")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "questions": len(asked),
        "questions_sha256": hashlib.sha256("".join(s.question for s in asked).encode()).hexdigest(),
        "max_steps": options.max_steps,
        "temperature": options.temperature,
        "policy": options.served or content_of(options.model or options.policy),
        "artifact": content_of(artifact),
        "traces": options.traces,
        "tokens": options.tokens,
        "depth": options.depth,
        "methods": {name: repr(method) for name, method in methods(options.traces).items()},
    }
    budget = Budget(max_depth=options.depth, max_tokens=options.tokens)
    with Scorer.load(artifact) as scorer:
        at_once = _AT_ONCE if options.model is None else _AT_ONCE_HERE
        rows = run(
            scorer,
            _policy(options),
            asked,
            options.output,
            settings,
            budget,
            num_traces=options.traces,
            at_once=at_once,
        )
    measured = {
        "environment": environment(),
        "settings": settings,
        "num_questions": len(rows),
        "curve": best_of_n_curve(rows),
        "methods": summarise(rows),
    }
    path = write_json(options.name, measured, RESULTS)
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
