"""GSM8K's files as trajectories: gold solutions, and model solutions with their outcomes.

Format: github.com/openai/grade-school-math. A solution has one step per line, a calculator note
``<<48/2=24>>`` in each computation, and the answer on its own last line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.traces.jsonl import parse_object
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError

_NOTE = re.compile(r"<<[^<>]*>>")
_ANSWER_LINE = re.compile(r"^\s*(?:####|A:)\s*(.*)$")


@dataclass(frozen=True)
class GoldSolution:
    """A right solution with its calculator notes, by which corruption finds the computations."""

    question: str
    steps: tuple[str, ...]
    """With notes."""
    answer: str


def read_gold_solutions(path: Path) -> list[GoldSolution]:
    """Every solution in ``gsm8k_train.jsonl`` that has steps and an answer."""
    solutions = []
    for row in read_rows(path):
        steps, answer = split_solution(row["answer"])
        if steps and answer is not None:
            solutions.append(GoldSolution(row["question"], tuple(steps), answer))
    return solutions


def read_model_solutions(path: Path) -> list[Trajectory]:
    """Every model's solution in ``gsm8k_model_solutions.jsonl`` with its true outcome.

    ``source`` names the model. ``metadata["question_index"]`` groups the solutions to a question;
    ``metadata["reference"]`` holds the steps of the gold one.
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
    """Step lines (with notes) and the answer, None if the solution states none."""
    steps, answer = [], None
    for line in text.splitlines():
        match = _ANSWER_LINE.match(line)
        if match:
            answer = match.group(1).strip()
        elif strip_notes(line).strip():
            steps.append(line.strip())
    return steps, answer


def strip_notes(text: str) -> str:
    """The text without calculator notes, which only GSM8K's own solutions have."""
    return _NOTE.sub("", text)


def answer_response(answer: str | None) -> tuple[str, ...]:
    """The final response of a trace whose answer is ``answer``."""
    return () if not answer else (f"The answer is {answer}.",)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one per line. Raises :class:`TrainingError` naming a bad
    line."""
    if not os.path.isfile(path):  # Path.is_file raises for some names
        raise TrainingError(
            f"there is no data file {str(path)!r}; run 'rfprm fetch-data' to get GSM8K's into "
            "data/, or set another path in the config"
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield parse_object(line)
            except InvalidTrajectoryError as error:
                raise TrainingError(f"{path}, line {number} is {error}") from None
