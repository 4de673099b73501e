"""GSM8K's files as trajectories: gold solutions, and what models wrote with its outcome.

Format: github.com/openai/grade-school-math. A solution has a step a line, calculator notes
``<<48/2=24>>`` after each computation, and the answer in a last line of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError

_NOTE = re.compile(r"<<[^<>]*>>")
_ANSWER_LINE = re.compile(r"^\s*(?:####|A:)\s*(.*)$")


@dataclass(frozen=True)
class GoldSolution:
    """A right solution, with the calculator notes that corruption needs to find computations."""

    question: str
    steps: tuple[str, ...]
    """With notes."""
    answer: str


def read_gold_solutions(path: Path) -> list[GoldSolution]:
    """Every solution of ``gsm8k_train.jsonl`` that has steps and an answer."""
    solutions = []
    for row in read_rows(path):
        steps, answer = split_solution(row["answer"])
        if steps and answer is not None:
            solutions.append(GoldSolution(row["question"], tuple(steps), answer))
    return solutions


def read_model_solutions(path: Path) -> list[Trajectory]:
    """Every model's solution of ``gsm8k_model_solutions.jsonl`` with its true outcome.

    ``source`` names the model; ``metadata["question_index"]`` groups the solutions to a question,
    ``metadata["reference"]`` holds the steps of the right one.
    """
    trajectories = []
    for index, row in enumerate(read_rows(path)):
        reference = tuple(map(strip_notes, split_solution(row["ground_truth"])[0]))
        models = [name for name in row if isinstance(row[name], dict)]
        for name in models:
            steps, answer = split_solution(row[name]["solution"])
            if steps:
                trajectories.append(
                    Trajectory(
                        question=row["question"],
                        steps=tuple(strip_notes(step) for step in steps),
                        response=answer_response(answer),
                        outcome=bool(row[name]["is_correct"]),
                        source=name,
                        metadata={"question_index": index, "reference": reference},
                    )
                )
    return trajectories


def split_solution(text: str) -> tuple[list[str], str | None]:
    """Step lines (with notes) and the answer; None where a solution ends without one."""
    steps, answer = [], None
    for line in text.splitlines():
        match = _ANSWER_LINE.match(line)
        if match:
            answer = match.group(1).strip()
        elif strip_notes(line).strip():
            steps.append(line.strip())
    return steps, answer


def strip_notes(text: str) -> str:
    """Without calculator notes, which no trace but GSM8K's own carries."""
    return _NOTE.sub("", text)


def answer_response(answer: str | None) -> tuple[str, ...]:
    """The final response to a trace whose answer is ``answer``."""
    return () if not answer else (f"The answer is {answer}.",)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a file, one a line. Raises :class:`TrainingError` naming a bad line."""
    if not path.is_file():
        raise TrainingError(
            f"there is no data file {str(path)!r}; 'rfprm fetch-data' gets GSM8K's into data/, "
            "or set its path in the config"
        )
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise TrainingError(f"{path}, line {number} is not JSON: {error}") from None
