"""Reads evaluation sets with human or verified labels, in the formats that their authors publish.

A step label is 1 (right), 0 (wrong) or NaN (not labelled).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.traces.sources import read_records, read_traces
from rfprm_runtime.types import Trajectory
from rfprm_training import DataError, TrainingError
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.rewarded import question_key, read_rewarded

_logger = logging.getLogger(__name__)
ORIGINAL = "right"
"""The kind of a process of PRMBench before it was modified."""


def processbench(row: Mapping[str, Any]) -> Iterator[Example]:
    """ProcessBench (arXiv 2412.06559): ``problem``, ``steps``, ``label`` (first wrong step from 0,
    or -1), ``final_answer_correct``, and ``id``, such as ``gsm8k-12``, which names the subset."""
    correct = row.get("final_answer_correct")
    subset = str(row.get("id", "")).rpartition("-")[0] or "processbench"
    yield _first_error_example(
        row["problem"], row["steps"], _none_if(row["label"], -1), subset, correct
    )


def big_bench_mistake(row: Mapping[str, Any]) -> Iterator[Example]:
    """BIG-Bench-Mistake (arXiv 2311.08516): ``input``, ``steps``, ``mistake_index`` (from 0, or
    null), ``answer`` and ``target``."""
    outcome = None if "target" not in row else row["answer"] == row["target"]
    yield _first_error_example(
        row["input"], row["steps"], row["mistake_index"], "big_bench_mistake", outcome
    )


def prmbench(row: Mapping[str, Any]) -> Iterator[Example]:
    """PRMBench (arXiv 2501.03124): a right process and one with ``error_steps`` (from 1)."""
    kind = str(row.get("classification", "prmbench"))
    question, steps = row["original_question"], row["original_process"]
    yield _example(question, steps, (1.0,) * len(steps), UNKNOWN, ORIGINAL)
    question, steps = row["modified_question"], row["modified_process"]
    wrong = set(row["error_steps"])
    labels = tuple(float(index not in wrong) for index in range(1, len(steps) + 1))
    yield _example(question, steps, labels, UNKNOWN, kind)


FORMATS: dict[str, Callable[[Mapping[str, Any]], Iterator[Example]]] = {
    "processbench": processbench,
    "big_bench_mistake": big_bench_mistake,
    "prmbench": prmbench,
}
FILE_FORMATS = (*FORMATS, "outcomes", "rewarded")
PUBLISHED: dict[str, tuple[str, ...]] = {
    "processbench": tuple(
        f"hf://Qwen/ProcessBench:{subset}"
        for subset in ("gsm8k", "math", "olympiadbench", "omnimath")
    ),
    "prmbench": ("hf://hitsmy/PRMBench_Preview",),
}
"""Where the authors publish a set, by its format."""

_IDENTITY = {"prmbench": ("classification", "idx")}
"""Fields that tell rows apart, where a set repeats some: PRMBench has five twice, and its authors
count the first."""


def read_evaluation_set(spec: str) -> list[Example]:
    """The examples of ``FORMAT:PATH``. For a format in :data:`PUBLISHED`, ``FORMAT`` alone is what
    its authors publish on the Hub.

    Besides the published formats there are ``outcomes`` (traces in any common format with a
    verified outcome) and ``rewarded`` (output of ``rfprm label``; a reward of 0.5 or more counts as
    right). Raises :class:`TrainingError` for an unknown format, or naming a bad record.
    """
    name, colon, place = spec.partition(":")
    if name not in FILE_FORMATS or not (colon or name in PUBLISHED):
        raise TrainingError(
            f"got the evaluation set {spec!r}, expected FORMAT:PATH with a format of "
            f"{list(FILE_FORMATS)}; only {' and '.join(PUBLISHED)} are on the Hub, and need no path"
        )
    if not colon:
        return [e for place in PUBLISHED[name] for e in read_evaluation_set(f"{name}:{place}")]
    if name == "rewarded":
        return [row.as_example(held_out=True) for row in read_rewarded(Path(place))]
    if name == "outcomes":
        return _outcomes(place)
    examples: list[Example] = []
    seen: set[tuple[str, ...]] = set()
    for record in read_records(place):
        if record.error is not None:
            raise TrainingError(f"{record.place}: {record.error}")
        identity = tuple(str(record.fields.get(field, "")) for field in _IDENTITY.get(name, ()))
        if all(identity) and identity in seen:
            continue
        if identity:
            seen.add(identity)
        try:
            examples += FORMATS[name](record.fields)
        except (KeyError, TypeError, ValueError, InvalidTrajectoryError) as error:
            raise TrainingError(
                f"{record.place} is not in the format {name}: {type(error).__name__}: {error}"
            ) from None
    return examples


def _outcomes(place: str) -> list[Example]:
    examples = []
    for record in read_traces(place):
        trajectory = record.trajectory
        if isinstance(trajectory, InvalidTrajectoryError):
            raise TrainingError(f"{record.place}: {trajectory}")
        if trajectory.outcome is None:
            raise TrainingError(f"{record.place} has no outcome")
        labels = (UNKNOWN,) * len(trajectory.steps)
        group = question_key(trajectory.question)
        outcome = float(trajectory.outcome)
        examples.append(Example(trajectory, labels, outcome, group, "outcomes", held_out=True))
    return examples


def _first_error_example(
    question: str, steps: list[str], first_error: int | None, kind: str, outcome: bool | None
) -> Example:
    if first_error is None:
        labels: tuple[float, ...] = (1.0,) * len(steps)
    elif 0 <= first_error < len(steps):
        if not steps[first_error].strip():
            raise DataError(f"the first wrong step, {first_error} (from 0), holds nothing")
        after = len(steps) - first_error - 1
        labels = (1.0,) * first_error + (0.0,) + (UNKNOWN,) * after
    else:
        raise DataError(f"the first wrong step is {first_error} of {len(steps)} steps")
    return _example(question, steps, labels, UNKNOWN if outcome is None else float(outcome), kind)


def _example(
    question: str, steps: list[str], labels: tuple[float, ...], outcome: float, kind: str
) -> Example:
    """Steps that hold nothing are left out, with their labels: PRMBench has some."""
    kept = [index for index, step in enumerate(steps) if step.strip()]
    if len(kept) < len(steps):
        _logger.warning(
            "%d of %d steps hold nothing and are left out, with their labels; the question is %s",
            len(steps) - len(kept),
            len(steps),
            shown(question),
        )
    trajectory = Trajectory.build(question=question, steps=[steps[index] for index in kept])
    own = tuple(labels[index] for index in kept)
    return Example(trajectory, own, outcome, question_key(question), kind, held_out=True)


def _none_if(value: int, none: int) -> int | None:
    return None if value == none else value
