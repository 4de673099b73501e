"""Whether selection by the PRM pays: the same student, fine-tuned on differently chosen traces.

rfprm score POOL -o SCORED --split lines
python -m experiments.selection SCORED --gold TEST [--references TRACES] -o runs/selection [--keep]

python -m experiments.puzzle_policy -o runs/puzzles --questions 500 --samples 4
rfprm score runs/puzzles/pool.jsonl -o runs/puzzles/scored.jsonl --split lines -a ARTIFACT
python -m experiments.selection runs/puzzles/scored.jsonl --puzzles --name selection-puzzles

POOL holds rows of `rfprm solve`, `experiments.sample_solutions` or `experiments.puzzle_policy`,
several of each question. Most arms take one trace of a question; `PRM of all` takes as many,
wherever the scores are highest, and `everything` takes all. Every student sees as many traces: an
arm with fewer repeats them. Measured are the accuracy of greedy answers to problems of TEST with
few steps, none of which is in the pool, and the mean log-probability of a token of right traces to
other questions (`--references`, rows as those of the pool), or else of the gold solutions to the
problems; of puzzles also how many answers are right in every line. Before the first student is
trained, the difference in accuracy that so many problems can show is printed. Finished students are
kept.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import mean_over_questions
from benchmarks.runner import environment
from experiments.choices import ARMS, Pool, arms_of, choose, described, read_pool
from experiments.kept import (
    add_result_options,
    check_made_alike,
    kept_runs,
    slug,
    write_result,
)
from experiments.puzzles import held_out_puzzles
from experiments.seeds import Differences, differences, table_of
from experiments.students import MEASURES, Test, measure, of_gold, of_puzzles, train
from rfprm_runtime.ground.content import content_of

_OF_STUDENTS = ("seen", "first_layer", "problems", "max_tokens")
"""Settings that students and their answers depend on."""


def detectable(accuracy: float, num_problems: int, num_seeds: int) -> float:
    """The difference of two accuracies that 80 % of such experiments would find at the 5 % level,
    if answers to one problem were independent: an upper bound, since arms answer the same ones."""
    return 2.8 * math.sqrt(2 * accuracy * (1 - accuracy) / (num_problems * num_seeds))


def summarise(
    of_students: dict[str, dict[str, dict[str, list[float]]]], chosen: dict[str, Any]
) -> dict[str, Any]:
    """For each arm its measures, and their difference from ``random`` on the same problems, with
    95 % intervals over problems; and the differences from the arms before it over seeds."""

    def mean_over_seeds(arm: str, name: str) -> np.ndarray:
        rows = np.array([of_students[arm][seed][name] for seed in sorted(of_students[arm])])
        mean: np.ndarray = rows.mean(axis=0)
        return mean

    found: dict[str, Any] = {}
    for arm, by_seed in of_students.items():
        found[arm] = {**chosen[arm], "of_seeds": {}}
        has_random = arm != "random" and set(by_seed) == set(of_students.get("random", {}))
        for name in _measured(by_seed):
            values = mean_over_seeds(arm, name)
            found[arm][name] = mean_over_questions(values)
            if has_random:
                found[arm][f"{name}_over_random"] = mean_over_questions(
                    values - mean_over_seeds("random", name)
                )
            found[arm]["of_seeds"][name] = [
                float(np.mean(by_seed[seed][name])) for seed in sorted(by_seed)
            ]
    for name, of_pairs in over_other_arms(of_students).items():
        for arm, of_others in of_pairs.items():
            found[arm].setdefault("over_seeds", {})[name] = of_others
    return found


def over_other_arms(
    of_students: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
) -> dict[str, Differences]:
    """By measure that all students have."""
    every = [measured for by_seed in of_students.values() for measured in by_seed.values()]
    return {
        name: differences(
            {
                arm: {seed: float(np.mean(measured[name])) for seed, measured in by_seed.items()}
                for arm, by_seed in of_students.items()
            }
        )
        for name in MEASURES
        if every and all(name in measured for measured in every)
    }


def _measured(by_seed: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    return [name for name in MEASURES if all(name in of_one for of_one in by_seed.values())]


_NAMES = {
    "accuracy": "accuracy",
    "right_throughout": "right throughout",
    "reference_logprob": "log-probability",
}


def report(found: dict[str, Any]) -> None:
    table = Table(title="one student for each choice and seed", title_justify="left")
    shown = [name for name in _NAMES if any(name in figures for figures in found.values())]
    for name in ("traces", "different", "right", "tokens"):
        table.add_column(name, justify="left" if name == "traces" else "right")
    for name in shown:
        table.add_column(_NAMES[name], justify="right")
        table.add_column("over random", justify="right")
    for arm, figures in found.items():
        cells = [f"{figures['traces']:,}", f"{figures['right']:.3f}", f"{figures['tokens']:.0f}"]
        for name in shown:
            gain = figures.get(f"{name}_over_random")
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(*figures[name]))
            cells.append("" if gain is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gain))
        table.add_row(arm, *cells)
    console = Console(width=180, highlight=False)
    console.print(table)
    over = {arm: figures["over_seeds"] for arm, figures in found.items() if "over_seeds" in figures}
    if over:
        of_measures = {
            _NAMES[name]: {arm: of_arm[name] for arm, of_arm in over.items()}
            for name in next(iter(over.values()))
        }
        console.print(table_of("differences", of_measures))


def _test(options: argparse.Namespace, pool: Pool) -> Test:
    if options.puzzles:
        return of_puzzles(held_out_puzzles(options.problems), options.max_tokens)
    return of_gold(
        options.gold,
        pool,
        options.most_steps,
        options.problems,
        options.max_tokens,
        options.references,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if options.puzzles and options.references is not None:
        raise SystemExit("--references are of --gold; puzzles have right solutions of their own")
    settings = {
        "pool": content_of(options.pool),
        **({"puzzles": True} if options.puzzles else {"gold": content_of(options.gold)}),
        **({} if options.puzzles else {"most_steps": options.most_steps}),
        "references": options.references and content_of(options.references),
        **{name: getattr(options, name) for name in _OF_STUDENTS},
    }
    check_made_alike(options.output, settings)
    pool = read_pool(options.pool)
    test = _test(options, pool)
    arms = options.arms or arms_of(pool)
    shown = {p: detectable(p, len(test.problems), len(options.seeds)) for p in (0.1, 0.2, 0.5)}
    told = ", ".join(f"{difference:.3f} at {p:.0%}" for p, difference in shown.items())
    print(f"{len(test.problems)} problems can show a difference in accuracy of {told}", flush=True)

    def make(arm: str, seed: int) -> dict[str, list[float]]:
        samples = choose(pool, arm, options.seen, seed)
        folder = options.output / f"{slug(arm)}-{seed}"
        student = train(samples, folder, seed, options.first_layer)
        return measure(student, test)

    of_students = kept_runs(options.output, arms, options.seeds, make)
    first = options.seeds[0]
    chosen = {arm: described(choose(pool, arm, options.seen, first)) for arm in arms}
    figures = summarise(of_students, chosen)
    measured = {
        "environment": environment(),
        "settings": settings,
        "problems": len(test.problems),
        "references": sum(len(of_one) for _, of_one in test.references),
        "detectable": {str(p): difference for p, difference in shown.items()},
        "arms": figures,
    }
    written = write_result(options, measured)
    report(figures)
    print(f"→ {written}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("pool", type=Path, help="sampled solutions with their outcomes and scores")
    tested_on = parser.add_mutually_exclusive_group(required=True)
    tested_on.add_argument("--gold", type=Path, help="problems to test on, as GSM8K's files")
    tested_on.add_argument("--puzzles", action="store_true", help="or held-out puzzles")
    add("--references", type=Path, help="right traces to other questions, in place of gold ones")
    add("--arms", nargs="+", choices=list(ARMS), help="all that the pool has, by default")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--seen", type=int, default=3000, help="traces that a student sees")
    add("--first-layer", type=int, default=15, help="of the student that is trained (of 30)")
    add("--problems", type=int, default=1000, help="to test on")
    add("--most-steps", type=int, default=3, help="of the gold solutions to test on")
    add("--max-tokens", type=int, default=200, help="of an answer")
    add_result_options(parser, "selection")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
