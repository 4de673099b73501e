"""A small model that is fine-tuned on chosen traces, and what it then can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.choices import Pool, Sample
from experiments.greedy import Problem
from experiments.puzzles import Puzzle
from experiments.small_policy import question_text, solution_text
from rfprm_export.base_model import read_base_model
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, read_rows
from rfprm_training.learning.dataset import by_hash

MEASURES = ("accuracy", "right_throughout", "reference_logprob")
"""Of a student, by question: whether its greedy answer is right, whether each of its lines is
(puzzles alone), and how likely a token of a right solution is to it."""


@dataclass(frozen=True)
class Test:
    """What students are asked."""

    problems: Sequence[Problem]
    references: Sequence[tuple[str, Sequence[str]]]
    """Questions with right solutions as students would write them."""
    max_tokens: int
    """Of an answer."""


def of_gold(
    gold: Path, pool: Pool, most_steps: int, count: int, max_tokens: int, references: Path | None
) -> Test:
    """``count`` problems of the file ``gold`` of at most so many steps that are not in the pool.
    The references are right traces of a file of them, or the solutions of ``gold``."""
    asked = {samples[0].question for samples in pool}
    found: list[GoldSolution] = [
        solution
        for solution in by_hash(read_gold_solutions(gold), 0)
        if solution.question not in asked and len(solution.steps) <= most_steps
    ][:count]
    if references is None:
        return Test(found, [(s.question, [solution_text(s)]) for s in found], max_tokens)
    return Test(found, read_references(references, pool), max_tokens)


def of_puzzles(asked: Sequence[Puzzle], max_tokens: int) -> Test:
    return Test(asked, [(puzzle.question, [puzzle.solution]) for puzzle in asked], max_tokens)


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


def train(samples: Sequence[Sample], folder: Path, seed: int, first_layer: int) -> Path:
    from datasets import Dataset

    from experiments.fine_tuning import fine_tune

    rows = [
        {"prompt": question_text(s.question), "completion": s.completion + "\n"} for s in samples
    ]
    return fine_tune(Dataset.from_list(rows), folder, epochs=1, seed=seed, first_layer=first_layer)


def measure(folder: Path, test: Test) -> dict[str, list[float]]:
    """Each of :data:`MEASURES` that the test has, for each problem or question."""
    import torch
    from transformers import AutoModelForCausalLM

    from experiments.fine_tuning import tokenizer
    from experiments.greedy import are_right, greedy_answers
    from experiments.reference_logprob import reference_logprobs
    from rfprm_training.learning.precision import is_fast_in_bfloat16

    narrow = is_fast_in_bfloat16(torch.device("cpu"))
    dtype = torch.bfloat16 if narrow else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    written = greedy_answers(read_base_model(folder), test.problems, test.max_tokens)
    throughout = [
        float(problem.is_right_throughout(text))
        for problem, text in zip(test.problems, written, strict=True)
        if isinstance(problem, Puzzle)
    ]
    return {
        "accuracy": [float(right) for right in are_right(written, test.problems)],
        **({"right_throughout": throughout} if throughout else {}),
        "reference_logprob": reference_logprobs(model, tokenizer(), test.references),
    }
