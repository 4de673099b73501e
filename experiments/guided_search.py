"""Compares guided search with Best-of-N at the same number of generated tokens, on real problems.

python -m experiments.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --policy runs/small-policy/model [--questions 100]
python -m experiments.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --server http://localhost:8080/v1 --served qwen2.5-coder-1.5b --traces 64
python -m experiments.guided_search --gold ../shared/data/gsm8k_train.jsonl \\
    --model qwen2.5-coder-1.5b-instruct-q4_k_m.gguf --traces 64
python -m experiments.guided_search --puzzles 4 --policy runs/puzzles/policy/model \\
    --artifact ARTIFACT --traces 64

The policy is one of `experiments.small_policy` or `experiments.puzzle_policy`, a chat model behind
an OpenAI-compatible server, or one of the Qwen family that runs here, on a GPU if there is one.
The problems are those of GSM8K that neither the small policy nor the shipped PRM was trained on.
With --pool (samples of the policy by `experiments.sample_solutions`, on questions that the PRM was
not trained on), they are those that it neither always nor never solved; with --puzzles, made-up
ones about so many people. Resumable; searches can be added to a finished run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.runner import environment
from experiments.greedy import Problem
from experiments.kept import add_result_options, check_made_alike, slug, write_result
from experiments.policies import FINE_TUNED, TorchPolicy, served_policy
from experiments.problems import held_out_questions
from experiments.puzzles import HELD_OUT_SEED, puzzles
from experiments.search_figures import INDEPENDENT, PICKS, best_of_n_curve, plot, summarise
from rfprm_export.base_model import read_base_model
from rfprm_export.shipped import ensure_artifact
from rfprm_runtime import Scorer, Trajectory, TrajectoryScore
from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.ground.content import content_of
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
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, read_rows
from rfprm_training.resumable import ResumableLines

SEARCHES: dict[str, dict[str, Any]] = {
    "beam search": {"strategy": BeamSearch(4, 4)},
    "beam search, by reward": {"strategy": BeamSearch(4, 4), "value": "reward"},
    "diverse trees": {"strategy": DiverseTreeSearch(4, 4)},
    "diverse trees, by reward": {"strategy": DiverseTreeSearch(4, 4), "value": "reward"},
    "best-first": {"strategy": BestFirstSearch(4, 4), "value": "mean"},
    "beam search, by the lowest step": {"strategy": BeamSearch(4, 4), "value": "min"},
    "beam search, by the last step": {"strategy": BeamSearch(4, 4), "value": "last"},
    # A control: what a search completes, if nothing steers it.
    "Best-of-16, a step at a time": {"strategy": BestOfN(16)},
}
_AT_ONCE = 4
_AT_ONCE_HERE = 50


Policy = CompletionProposer | TorchPolicy


def methods(num_traces: int, searches: Iterable[str]) -> dict[str, dict[str, Any]]:
    chosen = {name: SEARCHES[name] for name in searches}
    return {INDEPENDENT: {"strategy": BestOfN(num_traces)}, **chosen}


def problems(gold: Path, count: int, max_steps: int) -> list[GoldSolution]:
    """Problems held out from all training, whose solutions have at most ``max_steps`` steps."""
    solutions = read_gold_solutions(gold)
    held_out = held_out_questions(solutions)
    found = [s for s in solutions if s.question in held_out and len(s.steps) <= max_steps]
    return found[:count]


def of_middle_difficulty(pool: Path, count: int) -> list[GoldSolution]:
    """The first problems of ``pool`` (rows of `experiments.sample_solutions`) of whose samples some
    are right and some wrong: only there can a choice matter. Their steps are not known."""
    outcomes: dict[tuple[str, str], set[bool]] = {}
    for row in read_rows(pool):
        problem = (row["question"], row["answer"])
        outcomes.setdefault(problem, set()).add(bool(row["outcome"]))
    mixed = [problem for problem, found in outcomes.items() if len(found) == 2]
    return [GoldSolution(question, (), answer) for question, answer in mixed[:count]]


def run(
    scorer: Scorer,
    policy: Policy,
    asked: Sequence[Problem],
    folder: Path,
    settings: dict[str, Any],
    budget: Budget,
    *,
    num_traces: int,
    searches: Sequence[str] = tuple(SEARCHES),
    at_once: int = _AT_ONCE,
) -> list[dict[str, Any]]:
    """One row per question: what each method found and spent. ``num_traces``: N of Best-of-N.
    ``at_once`` questions are searched together and share their time.

    Each method has a file in ``folder``, so that others can be added later. ``settings``: what all
    of them depend on."""
    check_made_alike(folder, settings)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, options in methods(num_traces, searches).items():
        path = folder / f"{slug(name)}.jsonl"
        if not path.exists():
            with ResumableLines(path, {"method": repr(options)}) as lines:
                first = lines.num_lines // at_once * at_once
                for start in range(first, len(asked), at_once):
                    batch = asked[start : start + at_once]
                    if name == INDEPENDENT and isinstance(policy, TorchPolicy):
                        results = _drawn_whole(scorer, policy, batch, num_traces)
                    else:
                        results = _searched(scorer, policy, batch, budget, options)
                    for result in results[lines.num_lines - start :]:
                        lines.write(json.dumps(result) + "\n")
                    print(f"{name}: {start + len(batch)} of {len(asked)} questions", flush=True)
                lines.finish()
        found[name] = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {"question": one.question, "methods": {name: of_all[i] for name, of_all in found.items()}}
        for i, one in enumerate(asked)
    ]


def _searched(
    scorer: Scorer,
    policy: Policy,
    asked: Sequence[Problem],
    budget: Budget,
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    if isinstance(options["strategy"], BestOfN):
        # Drawn whole, and bought from afterwards.
        budget = replace(budget, max_tokens=None)
    searcher = Searcher(scorer, policy, budget=budget, **options)
    results = searcher.search_many([solution.question for solution in asked])
    return [
        _outcome(result, solution.answer, len(asked))
        for solution, result in zip(asked, results, strict=True)
    ]


def _outcome(result: SearchResult, answer: str, num_together: int) -> dict[str, Any]:
    traces = []
    for node in result.finished:
        assert node.score is not None
        num_tokens = sum(step.num_tokens for step in result.tree.ancestors(node))
        trace = _trace(result.tree.path(node), answer, node.score, num_tokens)
        traces += [trace] * node.num_proposed
    spent = result.spent
    return {
        "traces": traces,
        "num_tokens": spent.num_tokens,
        "num_steps": spent.num_steps,
        "proposing_seconds": spent.proposing_seconds / num_together,
        "scoring_seconds": spent.scoring_seconds / num_together,
    }


def _trace(
    steps: Sequence[str], answer: str, score: TrajectoryScore, num_tokens: int
) -> dict[str, Any]:
    given = final_answer("\n".join(steps))
    return {
        "answer": given,
        "right": answers_agree(given, answer) is True,
        "reward": aggregate(score, "reward"),
        "num_tokens": num_tokens,
    }


def _drawn_whole(
    scorer: Scorer, policy: TorchPolicy, asked: Sequence[Problem], num_traces: int
) -> list[dict[str, Any]]:
    """Best-of-N as people run it: solutions are drawn whole, not a step at a time, then scored."""
    begun = time.perf_counter()
    drawn = policy.solutions([solution.question for solution in asked], num_traces)
    proposed = time.perf_counter()
    written = [[one for one in of_question if one.steps] for of_question in drawn]
    scores = iter(
        scorer.score_batch(
            [
                Trajectory(question=problem.question, steps=one.steps)
                for problem, solutions in zip(asked, written, strict=True)
                for one in solutions
            ]
        )
    )
    scored = time.perf_counter()
    return [
        {
            "traces": [
                _trace(one.steps, problem.answer, next(scores), one.num_tokens) for one in solutions
            ],
            "num_tokens": sum(one.num_tokens for one in of_question),
            "num_steps": sum(len(one.steps) for one in of_question),
            "proposing_seconds": (proposed - begun) / len(asked),
            "scoring_seconds": (scored - proposed) / len(asked),
        }
        for problem, of_question, solutions in zip(asked, drawn, written, strict=True)
    ]


def report(measured: dict[str, Any]) -> None:
    table = Table(title=f"{measured['num_questions']} problems", title_justify="left")
    for column in ("method", "tokens", "seconds", "traces", *PICKS):
        table.add_column(column, justify="left" if column == "method" else "right")

    def cells(figures: dict[str, list[float]]) -> list[str]:
        return ["{:.3f} [{:.3f}, {:.3f}]".format(*figures[how]) for how in PICKS]

    for size, found in measured["curve"].items():
        spent = f"{found['tokens']:,.0f}", f"{found['seconds']:.1f}"
        table.add_row(f"Best-of-{size}", *spent, size, *cells(found["accuracy"]))
    table.add_section()
    for name, found in measured["methods"].items():
        tokens, seconds = f"{found['tokens']:,.0f}", f"{found['seconds']:.1f}"
        traces = f"{found['traces']:.1f}"
        table.add_row(name, tokens, seconds, traces, *cells(found["accuracy"]))
        if "difference" in found:
            same = found["Best-of-N at the same tokens"]
            table.add_row("  Best-of-N, same tokens", tokens, "", "", *cells(same))
            table.add_row("  difference", "", "", "", *cells(found["difference"]), end_section=True)
    Console(width=190, highlight=False).print(table)


def _asked(options: argparse.Namespace) -> Sequence[Problem]:
    if options.pool is not None:
        return of_middle_difficulty(options.pool, options.questions)
    if options.puzzles is not None:
        return puzzles(options.questions, HELD_OUT_SEED, people=(options.puzzles,) * 2)
    return problems(options.gold, options.questions, options.max_steps)


def _policy(options: argparse.Namespace) -> Policy:
    if options.policy is not None:
        base = read_base_model(options.policy)
        return TorchPolicy(base, FINE_TUNED, temperature=options.temperature)
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
    asked_of = parser.add_mutually_exclusive_group(required=True)
    asked_of.add_argument("--gold", type=Path, help="GSM8K's train.jsonl")
    asked_of.add_argument("--pool", type=Path, help="or samples of experiments.sample_solutions")
    asked_of.add_argument(
        "--puzzles", type=int, choices=range(2, 11), metavar="PEOPLE", help="or made-up ones"
    )
    parser.add_argument("--policy", type=Path, help="the folder of a fine-tuned policy")
    parser.add_argument("--server", help="or the base URL of a server")
    parser.add_argument("--served", help="the name of its model")
    parser.add_argument("--model", type=Path, help="or a GGUF file or folder")
    parser.add_argument("--concurrency", type=int, default=32, help="requests at once")
    parser.add_argument("--artifact", type=Path, help="of the PRM (the shipped one in int16)")
    parser.add_argument("--traces", type=int, default=32, help="N of Best-of-N")
    parser.add_argument(
        "--searches", nargs="*", choices=list(SEARCHES), default=list(SEARCHES), metavar="SEARCH"
    )
    parser.add_argument("--tokens", type=int, default=2000, help="that a search may generate")
    parser.add_argument("--depth", type=int, default=8, help="steps of a trace, at most")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument(
        "--at-once", type=int, help="questions searched together (4 at a server, 50 here)"
    )
    parser.add_argument("--max-steps", type=int, default=3, help="of the problems' gold solutions")
    parser.add_argument("--temperature", type=float, default=0.7)
    add_result_options(parser, "guided_search", "guided-search")
    options = parser.parse_args()
    if sum(x is not None for x in (options.policy, options.server, options.model)) != 1:
        parser.error("give a --policy, a --server or a --model")
    if options.server is not None and options.served is None:
        parser.error("--server needs the name of a model (--served)")
    asked = _asked(options)
    artifact = options.artifact or Path("artifacts/benchmarks/artifact-int16")
    if options.artifact is None:
        ensure_artifact(artifact, precision="int16")
    settings = {
        "questions": len(asked),
        "questions_sha256": hashlib.sha256("".join(s.question for s in asked).encode()).hexdigest(),
        "max_steps": options.max_steps if options.gold is not None else None,
        "temperature": options.temperature,
        "policy": options.served or content_of(options.model or options.policy),
        "artifact": content_of(artifact),
        "traces": options.traces,
        "tokens": options.tokens,
        "depth": options.depth,
    }
    budget = Budget(max_depth=options.depth, max_tokens=options.tokens)
    with Scorer.load(artifact) as scorer:
        at_once = options.at_once or (_AT_ONCE_HERE if options.server is None else _AT_ONCE)
        rows = run(
            scorer,
            _policy(options),
            asked,
            options.output,
            settings,
            budget,
            num_traces=options.traces,
            searches=options.searches,
            at_once=at_once,
        )
    measured = {
        "environment": environment(),
        "settings": settings,
        "num_questions": len(rows),
        "curve": best_of_n_curve(rows),
        "methods": summarise(rows),
    }
    path = write_result(options, measured)
    plot(measured, path.with_suffix(".png"))
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
