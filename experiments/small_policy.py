"""Trains a small policy on the form of GSM8K's solutions, for searches to guide.

python -m experiments.small_policy --gold ../shared/data/gsm8k_train.jsonl -o runs/small-policy

The base model solves almost none of these problems. It is trained on solutions to questions that
are not held out from the PRM. Resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from datasets import Dataset

from experiments.fine_tuning import fine_tune
from experiments.problems import held_out_questions
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions, strip_notes


def question_text(question: str) -> str:
    """The prompt before the first step."""
    return f"Question: {question}\nSolution:\n"


def solution_text(solution: GoldSolution) -> str:
    steps = "\n".join(map(strip_notes, solution.steps))
    return f"{steps}\nThe answer is {solution.answer}.\n"


def rows(gold: Path, count: int) -> Dataset:
    """``count`` solutions to train on, in the order of a hash."""
    solutions = read_gold_solutions(gold)
    held_out = held_out_questions(solutions)
    others = [solution for solution in solutions if solution.question not in held_out]
    others.sort(key=lambda solution: hashlib.sha256(solution.question.encode()).hexdigest())
    return Dataset.from_list(
        [
            {"prompt": question_text(solution.question), "completion": solution_text(solution)}
            for solution in others[:count]
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gold", type=Path, required=True, help="GSM8K's train.jsonl")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/small-policy"))
    parser.add_argument("--solutions", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=1.0)
    options = parser.parse_args()
    folder = fine_tune(rows(options.gold, options.solutions), options.output, epochs=options.epochs)
    print(f"→ {folder}")


if __name__ == "__main__":
    main()
