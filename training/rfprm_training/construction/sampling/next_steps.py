"""Next steps that a small model writes after the beginning of a right solution.

The verifier grades each sampled step against the solution. Each gives a trajectory that ends with
it: an error as models make them, or a right step in other words. Knows no tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from rfprm_export.named_base import FolderBase, GgufBase
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.gsm8k import GoldSolution, read_rows, strip_notes
from rfprm_training.labelling.verifier import grade_next_step
from rfprm_training.resumable import ResumableLines
from rfprm_training.toml_config import Section

_FORMAT_VERSION = 1
"""Rises when the code begins to draw other samples."""


class SamplingConfig(Section):
    base: GgufBase | FolderBase = Field(discriminator="kind")
    """The model that writes the steps."""
    num_questions: int = Field(gt=0)
    places_per_question: int = Field(default=2, gt=0)
    """Beginnings to draw from each solution."""
    samples_per_place: int = Field(default=4, gt=0)
    temperature: float = Field(default=0.8, gt=0)
    max_step_tokens: int = Field(default=48, gt=0)
    num_demonstrations: int = Field(default=4, gt=0)
    """Solved questions to show the model first; they are used for nothing else."""
    batch_size: int = Field(default=8, gt=0)
    """Beginnings to continue at once."""
    seed: int = 0


class Sampler(Protocol):
    """Continues texts to the end of the line, like :class:`.line_sampler.LineSampler`."""

    def __call__(self, texts: Sequence[str], seed: int) -> list[list[str]]: ...


@dataclass(frozen=True)
class Beginning:
    """The first ``num_steps`` steps of a right solution."""

    solution: GoldSolution
    num_steps: int

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(strip_notes(step) for step in self.solution.steps[: self.num_steps])

    @property
    def text(self) -> str:
        return "\n".join((f"Question: {self.solution.question}", "Solution:", *self.steps, ""))


def draw_beginnings(solutions: Iterable[GoldSolution], config: SamplingConfig) -> list[Beginning]:
    """Beginnings of the first ``num_questions`` solutions; each has its own generator."""
    found = []
    for solution in list(solutions)[: config.num_questions]:
        rng = random.Random(f"{config.seed} {solution.question}")
        count = min(config.places_per_question, len(solution.steps))
        places = sorted(rng.sample(range(len(solution.steps)), count))
        found += [Beginning(solution, place) for place in places]
    return found


def demonstrations(solutions: Sequence[GoldSolution]) -> str:
    """Solved questions as the text to show the model."""
    shown = [Beginning(solution, len(solution.steps)).text for solution in solutions]
    return "".join(f"{text}\n" for text in shown)


def sample_file(
    solutions: Sequence[GoldSolution],
    output: Path,
    config: SamplingConfig,
    open_sampler: Callable[[str], Sampler],
    *,
    source: str,
    model: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a line for each beginning, with its question, its steps and the sampled steps; returns
    the number of lines.

    ``open_sampler`` gets the demonstrations. A stopped run resumes; a batch depends on nothing
    before it. ``source`` is what errors call the solutions, ``model`` what tells the sampler from
    others: the hash of its weights, its device. Without ``overwrite``, raises
    :class:`~rfprm_training.TrainingError` if ``output`` exists, or was started with other solutions
    or settings, or from another model.
    """
    shown, rest = solutions[: config.num_demonstrations], solutions[config.num_demonstrations :]
    beginnings = draw_beginnings(rest, config)
    if not beginnings:
        raise TrainingError(
            f"{source} has {len(solutions)} solutions, of which num_demonstrations takes "
            f"{config.num_demonstrations}; none is left to sample from"
        )
    key = {
        "format_version": _FORMAT_VERSION,
        "texts_sha256": _digest([demonstrations(shown), *(b.text for b in beginnings)]),
        "model": dict(model or {}),
        **config.model_dump(mode="json", exclude={"base"}),
    }
    with ResumableLines(output, key, overwrite=overwrite) as lines:
        first = lines.num_lines // config.batch_size * config.batch_size
        sampler = open_sampler(demonstrations(shown)) if first < len(beginnings) else None
        for start in range(first, len(beginnings), config.batch_size):
            assert sampler is not None
            batch = beginnings[start : start + config.batch_size]
            sampled = sampler([beginning.text for beginning in batch], config.seed + start)
            written = lines.num_lines - start  # lines of a batch that a kill cut off
            for beginning, steps in list(zip(batch, sampled, strict=True))[written:]:
                row = NextSteps(beginning.solution.question, beginning.steps, tuple(steps))
                lines.write(json.dumps(vars(row), ensure_ascii=False) + "\n")
            on_progress(start + len(batch), len(beginnings))
        lines.finish()
    return len(beginnings)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class NextSteps:
    """One line of the file."""

    question: str
    steps: tuple[str, ...]
    """The beginning."""
    sampled: tuple[str, ...]
    """Next steps that the model wrote."""


def read_next_steps(path: Path) -> Iterator[NextSteps]:
    """Every line of a file. Raises :class:`~rfprm_training.TrainingError` naming a bad one."""
    for number, row in enumerate(read_rows(path), start=1):
        try:
            yield NextSteps(row["question"], tuple(row["steps"]), tuple(row["sampled"]))
        except (KeyError, TypeError) as error:
            raise TrainingError(
                f"{path}, line {number} is not a line of rfprm sample: "
                f"{type(error).__name__}: {error}"
            ) from None


def graded_examples(row: NextSteps, solution: GoldSolution, group: str) -> Iterator[Example]:
    """A trajectory for each different sampled step that the verifier can grade; its label as a
    whole is unknown. Steps of the solution itself are skipped."""
    reference = [strip_notes(step) for step in solution.steps]
    own = set(reference)
    for step in dict.fromkeys(text.strip() for text in row.sampled):
        if not step or step in own:
            continue
        grade = grade_next_step(row.question, step, before=row.steps, references=[reference])
        if not math.isnan(grade.grade):
            trajectory = Trajectory(
                question=row.question, steps=(*row.steps, step), source="sampled"
            )
            labels = (*(1.0,) * len(row.steps), grade.grade)
            yield Example(trajectory, labels, UNKNOWN, group, "next_step")
