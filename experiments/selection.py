"""Whether selection by the PRM pays: the same student, fine-tuned on differently chosen traces.

rfprm score POOL -o SCORED --split lines
python -m experiments.selection SCORED --gold TEST [--references TRACES] -o runs/selection [--keep]

POOL holds rows of `rfprm solve` or `experiments.sample_solutions`, several of each question. Most
arms take one trace of a question; `PRM of all` takes as many, wherever the scores are highest, and
`everything` takes all. Every student sees as many traces: an arm with fewer repeats them. Measured
are the accuracy of greedy answers to problems of TEST with few steps, none of which is in the pool,
and the mean log-probability of a token of right traces to other questions (`--references`, rows as
those of the pool), or else of the gold solutions to the problems. Before the first student is
trained, the difference in accuracy that so many problems can show is printed. Finished students are
kept.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import mean_over_questions, write_json
from benchmarks.runner import environment
from experiments import RESULTS
from experiments.kept import check_made_alike, kept_runs, slug
from experiments.small_policy import question_text, solution_text
from rfprm_export.base_model import read_base_model
from rfprm_runtime.ground.content import content_of
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, read_rows
from rfprm_training.learning.dataset import by_hash


@dataclass(frozen=True)
class Sample:
    """A sampled solution and what arms choose by."""

    question: str
    completion: str
    num_tokens: int
    outcome: bool | None
    reward: float


_OF_STUDENTS = ("seen", "first_layer", "problems", "most_steps", "max_tokens")
"""Settings that students and their answers depend on."""

Pool = Sequence[Sequence[Sample]]
"""The samples of each question."""
Choice = Callable[[Pool, random.Random], list[Sample]]


def _each(choice: Callable[[Sequence[Sample], random.Random], Sample | None]) -> Choice:
    """At most one trace of a question."""

    def choose(pool: Pool, rng: random.Random) -> list[Sample]:
        taken = (choice(samples, rng) for samples in pool)
        return [sample for sample in taken if sample is not None]

    return choose


def _the_best(by: Callable[[Sample], float]) -> Choice:
    return _each(lambda samples, rng: max(samples, key=by))


def _verified(samples: Sequence[Sample], rng: random.Random) -> Sample | None:
    right = [sample for sample in samples if sample.outcome]
    return rng.choice(right) if right else None


def _best_of_all(pool: Pool, rng: random.Random) -> list[Sample]:
    everything = [sample for samples in pool for sample in samples]
    return sorted(everything, key=lambda sample: -sample.reward)[: len(pool)]


ARMS: dict[str, Choice] = {
    "random": _each(lambda samples, rng: rng.choice(samples)),
    "longest": _the_best(lambda sample: sample.num_tokens),
    "PRM": _the_best(lambda sample: sample.reward),
    "PRM of all": _best_of_all,
    "verified": _each(_verified),
    "everything": lambda pool, rng: [sample for samples in pool for sample in samples],
}
"""Which samples a student is trained on."""
MEASURES = ("accuracy", "reference_logprob")
"""Of a student, by question: whether its greedy answer is right, and how likely a token of a right
solution is to it."""


def read_pool(path: Path) -> list[list[Sample]]:
    """The samples of each question; those that were cut off are left out, as a selection in
    practice would. Raises :class:`SystemExit` for rows without scores."""
    found: dict[str, list[Sample]] = {}
    for row in read_rows(path):
        if "reward" not in row:
            raise SystemExit(f"{path} has rows without a reward; score it with rfprm score")
        if row["finish_reason"] == "length":
            continue
        names = ("question", "completion", "num_tokens", "outcome", "reward")
        sample = Sample(*(row[name] for name in names))
        found.setdefault(sample.question, []).append(sample)
    return list(found.values())


def choose(pool: Pool, arm: str, num_seen: int, seed: int) -> list[Sample]:
    """``num_seen`` traces for a student to see: those that the arm takes, repeated as needed."""
    rng = random.Random(f"{arm} {seed}")
    taken = ARMS[arm](pool, rng)
    seen: list[Sample] = []
    while len(seen) < num_seen:
        rng.shuffle(taken)
        seen += taken[: num_seen - len(seen)]
    return seen


def held_out(path: Path, pool: Pool, most_steps: int, count: int) -> list[GoldSolution]:
    """``count`` problems of at most so many steps that are not in the pool."""
    asked = {samples[0].question for samples in pool}
    found = [
        solution
        for solution in by_hash(read_gold_solutions(path), 0)
        if solution.question not in asked and len(solution.steps) <= most_steps
    ]
    return found[:count]


def detectable(accuracy: float, num_problems: int, num_seeds: int) -> float:
    """The difference of two accuracies that 80 % of such experiments would find at the 5 % level,
    if answers to one problem were independent: an upper bound, since arms answer the same ones."""
    return 2.8 * math.sqrt(2 * accuracy * (1 - accuracy) / (num_problems * num_seeds))


def train(samples: Sequence[Sample], folder: Path, seed: int, first_layer: int) -> Path:
    from datasets import Dataset

    from experiments.fine_tuning import fine_tune

    rows = [
        {"prompt": question_text(s.question), "completion": s.completion + "\n"} for s in samples
    ]
    return fine_tune(Dataset.from_list(rows), folder, epochs=1, seed=seed, first_layer=first_layer)


def read_references(path: Path, pool: Pool) -> list[tuple[str, list[str]]]:
    """Questions that are not in the pool, with their right traces as students would write them.
    Raises :class:`SystemExit` if there are none."""
    asked = {samples[0].question for samples in pool}
    found: dict[str, list[str]] = {}
    for row in read_rows(path):
        if row["outcome"] and row["question"] not in asked:
            found.setdefault(row["question"], []).append(row["completion"] + "\n")
    if not found:
        raise SystemExit(f"{path} has no right trace to a question that is not in the pool")
    return list(found.items())


def measure(
    folder: Path,
    asked: Sequence[GoldSolution],
    references: Sequence[tuple[str, Sequence[str]]],
    max_tokens: int,
) -> dict[str, list[float]]:
    """Each of :data:`MEASURES` for each problem or question."""
    import torch
    from transformers import AutoModelForCausalLM

    from experiments.fine_tuning import tokenizer
    from experiments.greedy import solved_by
    from experiments.reference_logprob import reference_logprobs
    from rfprm_training.learning.precision import is_fast_in_bfloat16

    narrow = is_fast_in_bfloat16(torch.device("cpu"))
    dtype = torch.bfloat16 if narrow else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return {
        "accuracy": [
            float(right) for right in solved_by(read_base_model(folder), asked, max_tokens)
        ],
        "reference_logprob": reference_logprobs(model, tokenizer(), references),
    }


def summarise(
    of_students: dict[str, dict[str, dict[str, list[float]]]], chosen: dict[str, Any]
) -> dict[str, Any]:
    """For each arm its measures, and their difference from ``random`` on the same problems, with
    95 % intervals over problems."""

    def mean_over_seeds(arm: str, name: str) -> np.ndarray:
        rows = np.array([of_students[arm][seed][name] for seed in sorted(of_students[arm])])
        mean: np.ndarray = rows.mean(axis=0)
        return mean

    found: dict[str, Any] = {}
    for arm, by_seed in of_students.items():
        found[arm] = {**chosen[arm]}
        has_random = arm != "random" and set(by_seed) == set(of_students.get("random", {}))
        for name in MEASURES:
            values = mean_over_seeds(arm, name)
            found[arm][name] = mean_over_questions(values)
            if has_random:
                found[arm][f"{name}_over_random"] = mean_over_questions(
                    values - mean_over_seeds("random", name)
                )
        found[arm]["of_seeds"] = [
            float(np.mean(by_seed[seed]["accuracy"])) for seed in sorted(by_seed)
        ]
    return found


def described(samples: Sequence[Sample]) -> dict[str, Any]:
    """What an arm has chosen."""
    different = set(samples)
    return {
        "traces": len(different),
        "right": float(np.mean([bool(s.outcome) for s in different])),
        "tokens": float(np.mean([s.num_tokens for s in different])),
    }


def report(found: dict[str, Any]) -> None:
    table = Table(title="one student for each choice", title_justify="left")
    columns = ("traces", "different", "right", "tokens", "accuracy", "over random")
    for name in (*columns, "log-probability", "over random"):
        table.add_column(name, justify="left" if name == "traces" else "right")
    for arm, figures in found.items():
        cells = [f"{figures['traces']:,}", f"{figures['right']:.3f}", f"{figures['tokens']:.0f}"]
        for name in MEASURES:
            gain = figures.get(f"{name}_over_random")
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(*figures[name]))
            cells.append("" if gain is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gain))
        table.add_row(arm, *cells)
    Console(width=150, highlight=False).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    settings = {
        "pool": content_of(options.pool),
        "gold": content_of(options.gold),
        "references": options.references and content_of(options.references),
        **{name: getattr(options, name) for name in _OF_STUDENTS},
    }
    check_made_alike(options.output, settings)
    pool = read_pool(options.pool)
    asked = held_out(options.gold, pool, options.most_steps, options.problems)
    references: list[tuple[str, list[str]]] = [(s.question, [solution_text(s)]) for s in asked]
    if options.references is not None:
        references = read_references(options.references, pool)
    shown = {p: detectable(p, len(asked), len(options.seeds)) for p in (0.1, 0.2, 0.3)}
    told = ", ".join(f"{difference:.3f} at {p:.0%}" for p, difference in shown.items())
    print(f"{len(asked)} problems can show a difference in accuracy of {told}", flush=True)

    def make(arm: str, seed: int) -> dict[str, list[float]]:
        samples = choose(pool, arm, options.seen, seed)
        folder = options.output / f"{slug(arm)}-{seed}"
        student = train(samples, folder, seed, options.first_layer)
        return measure(student, asked, references, options.max_tokens)

    of_students = kept_runs(options.output, options.arms, options.seeds, make)
    first = options.seeds[0]
    chosen = {arm: described(choose(pool, arm, options.seen, first)) for arm in options.arms}
    figures = summarise(of_students, chosen)
    measured = {
        "environment": environment(),
        "settings": settings,
        "problems": len(asked),
        "references": sum(len(of_one) for _, of_one in references),
        "detectable": {str(p): difference for p, difference in shown.items()},
        "arms": figures,
    }
    written = write_json("selection", measured, RESULTS if options.keep else options.output)
    report(figures)
    print(f"→ {written}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("pool", type=Path, help="sampled solutions with their outcomes and scores")
    add("--gold", type=Path, required=True, help="problems to test on, as GSM8K's files")
    add("--references", type=Path, help="right traces to other questions, in place of gold ones")
    add("-o", "--output", type=Path, default=Path("runs/selection"), help="folder of the students")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--seen", type=int, default=3000, help="traces that a student sees")
    add("--first-layer", type=int, default=15, help="of the student that is trained (of 30)")
    add("--problems", type=int, default=1000, help="to test on")
    add("--most-steps", type=int, default=3, help="of the gold solutions to test on")
    add("--max-tokens", type=int, default=200, help="of an answer")
    add("--keep", action="store_true", help="write the result to experiments/results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
