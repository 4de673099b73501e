"""Compares guided search with Best-of-N at the same number of generated tokens, on real problems.

python -m benchmarks.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --policy runs/small-policy/model [--questions 100]

`benchmarks.small_policy` trains the policy. The problems are those of GSM8K that neither it nor the
PRM was trained on. Resumable.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.problems import held_out_questions
from benchmarks.report import over_questions, write_json
from benchmarks.runner import environment
from benchmarks.small_policy import question_text
from rfprm_export.named_base import FolderBase
from rfprm_export.shipped import ensure_artifact
from rfprm_runtime import Scorer
from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.reranker import count_votes
from rfprm_runtime.scores.aggregation import aggregate
from rfprm_runtime.search import (
    BeamSearch,
    BestFirstSearch,
    BestOfN,
    Budget,
    DiverseTreeSearch,
    Proposal,
    Request,
    Searcher,
    SearchResult,
)
from rfprm_training.construction.sampling.line_sampler import LineSampler
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions
from rfprm_training.resumable import ResumableLines

METHODS: dict[str, dict[str, Any]] = {
    "Best-of-N": {"strategy": BestOfN(32)},
    "beam search": {"strategy": BeamSearch(4, 4)},
    "beam search, by reward": {"strategy": BeamSearch(4, 4), "value": "reward"},
    "diverse trees": {"strategy": DiverseTreeSearch(4, 4)},
    "diverse trees, by reward": {"strategy": DiverseTreeSearch(4, 4), "value": "reward"},
    "best-first": {"strategy": BestFirstSearch(4, 4), "value": "mean"},
}
PICKS = ("reward", "weighted vote", "majority vote", "random", "oracle")
BUDGET = Budget(max_depth=8, max_tokens=2000)
_AT_ONCE = 4
_ROWS = 32
_DRAWS = 50
"""Random orders in which the traces of Best-of-N are bought until the tokens are spent."""
_OPENING = "Question:"
"""The beginning of all prompts; the sampler computes it once."""


class SmallPolicy:
    """A language model as a proposer; a step is a line."""

    def __init__(self, folder: Path, *, temperature: float, seed: int) -> None:
        self._sampler = LineSampler(
            FolderBase(path=str(folder.absolute())),
            folder,
            _OPENING,
            prepare_model=_with_small_weights,
        )
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        found: dict[int, list[Proposal]] = {}
        order = sorted(range(len(requests)), key=lambda index: requests[index].count)
        for count, group in groupby(order, key=lambda index: requests[index].count):
            indices = list(group)
            size = max(1, _ROWS // count)
            for start in range(0, len(indices), size):
                batch = indices[start : start + size]
                texts = [_beginning(requests[index]) for index in batch]
                lines = self._sampler.sample(
                    texts,
                    count=count,
                    temperature=self._temperature,
                    max_tokens=64,
                    generator=self._generator,
                )
                for index, drawn in zip(batch, lines, strict=True):
                    found[index] = [_proposal(*line) for line in drawn]
        return [found[index] for index in range(len(requests))]


def _with_small_weights(model: Any) -> Any:
    """The model with linears in 8 bits, which doubles its speed on a CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quantize: Any = torch.ao.quantization.quantize_dynamic
        return quantize(model, {torch.nn.Linear}, dtype=torch.qint8)


def _beginning(request: Request) -> str:
    text = question_text(request.question) + "".join(f"{step}\n" for step in request.steps)
    return text.removeprefix(_OPENING)


def _proposal(text: str, num_tokens: int, is_whole: bool) -> Proposal:
    step = text.strip()
    # After its answer the model would invent another question. A blank line also ends a trace.
    is_last = not step or not is_whole or "answer is" in step.lower() or step.startswith("A:")
    return Proposal(step, num_tokens, finished=is_last)


def problems(gold: Path, count: int, max_steps: int) -> list[GoldSolution]:
    """Problems held out from all training, whose solutions have at most ``max_steps`` steps."""
    solutions = read_gold_solutions(gold)
    held_out = held_out_questions(solutions)
    found = [s for s in solutions if s.question in held_out and len(s.steps) <= max_steps]
    return found[:count]


def run(
    scorer: Scorer, policy: SmallPolicy, asked: Sequence[GoldSolution], output: Path, key: Any
) -> list[dict[str, Any]]:
    """One row per question: what each method found and spent."""
    if output.exists():
        return [json.loads(line) for line in output.read_text().splitlines()]
    with ResumableLines(output, key) as lines:
        first = lines.num_lines // _AT_ONCE * _AT_ONCE
        for start in range(first, len(asked), _AT_ONCE):
            batch = asked[start : start + _AT_ONCE]
            rows: list[dict[str, Any]] = [{"question": s.question, "methods": {}} for s in batch]
            for name, options in METHODS.items():
                searcher = Searcher(scorer, policy, budget=_budget(name), **options)
                results = searcher.search_many([s.question for s in batch])
                for row, solution, result in zip(rows, batch, results, strict=True):
                    row["methods"][name] = _outcome(result, solution.answer)
            written = lines.num_lines - start
            for row in rows[written:]:
                lines.write(json.dumps(row) + "\n")
            print(f"{start + len(batch)} of {len(asked)} questions", flush=True)
        lines.finish()
    return [json.loads(line) for line in output.read_text().splitlines()]


def _budget(name: str) -> Budget:
    return Budget(max_depth=BUDGET.max_depth) if name == "Best-of-N" else BUDGET


def _outcome(result: SearchResult, answer: str) -> dict[str, Any]:
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
        "proposing_seconds": spent.proposing_seconds,
        "scoring_seconds": spent.scoring_seconds,
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
    for name in METHODS:
        searches = [row["methods"][name] for row in rows]
        figures = {how: [pick(s["traces"], how) for s in searches] for how in PICKS}
        found[name] = {
            "tokens": float(np.mean([s["num_tokens"] for s in searches])),
            "traces": float(np.mean([len(s["traces"]) for s in searches])),
            # Questions searched together share their time.
            "proposing": sum(s["proposing_seconds"] for s in searches) / _AT_ONCE,
            "scoring": sum(s["scoring_seconds"] for s in searches) / _AT_ONCE,
            "accuracy": {how: _estimate(values) for how, values in figures.items()},
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
                how: _estimate(values) for how, values in same.items()
            }
            found[name]["difference"] = {
                how: _estimate(np.subtract(figures[how], same[how])) for how in PICKS
            }
    return found


def _estimate(values: Sequence[float] | np.ndarray) -> list[float]:
    """The mean with its 95 % interval over questions."""
    return over_questions(lambda some: float(some.mean()), np.asarray(values, dtype=np.float64))


def report(measured: dict[str, Any]) -> None:
    table = Table(title=f"{measured['num_questions']} problems", title_justify="left")
    for column in ("method", "tokens", "traces", *PICKS):
        table.add_column(column, justify="left" if column == "method" else "right")

    def cells(figures: dict[str, list[float]]) -> list[str]:
        return ["{:.3f} [{:.3f}, {:.3f}]".format(*figures[how]) for how in PICKS]

    for name, found in measured["methods"].items():
        tokens, traces = f"{found['tokens']:,.0f}", f"{found['traces']:.1f}"
        table.add_row(name, tokens, traces, *cells(found["accuracy"]))
        if "difference" in found:
            same = found["Best-of-N at the same tokens"]
            table.add_row("  Best-of-N, same tokens", tokens, "", *cells(same))
            table.add_row("  difference", "", "", *cells(found["difference"]), end_section=True)
    Console(width=190, highlight=False).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gold", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--policy", type=Path, required=True, help="the model's folder")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--max-steps", type=int, default=3, help="of the problems' gold solutions")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--output", type=Path, default=Path("runs/guided-search.jsonl"))
    options = parser.parse_args()
    asked = problems(options.gold, options.questions, options.max_steps)
    artifact = Path("artifacts/benchmarks/artifact-int16")
    ensure_artifact(artifact, precision="int16")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "questions": len(asked),
        "questions_sha256": hashlib.sha256("".join(s.question for s in asked).encode()).hexdigest(),
        "max_steps": options.max_steps,
        "temperature": options.temperature,
        "methods": {name: repr(method) for name, method in METHODS.items()},
    }
    with Scorer.load(artifact) as scorer:
        policy = SmallPolicy(options.policy, temperature=options.temperature, seed=0)
        rows = run(scorer, policy, asked, options.output, settings)
    measured = {
        "environment": environment(),
        "settings": settings,
        "num_questions": len(rows),
        "methods": summarise(rows),
    }
    path = write_json("guided_search", measured)
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
