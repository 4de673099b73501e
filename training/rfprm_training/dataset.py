"""Labelled trajectories: what the joint loss is taught, and how questions are split."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.config import DataConfig
from rfprm_training.corruption import CorruptedSolution, corrupt
from rfprm_training.gsm8k import (
    GoldSolution,
    answer_response,
    read_gold_solutions,
    read_model_solutions,
    strip_notes,
)

UNKNOWN = math.nan
"""Label of a step that nobody judged; it takes no part in the loss."""


@dataclass(frozen=True)
class Example:
    """A trajectory with its targets in [0, 1], or :data:`UNKNOWN`."""

    trajectory: Trajectory
    step_labels: tuple[float, ...]
    trajectory_label: float
    group: str
    """Trajectories to the same question share it: pairs are formed and splits made by group."""
    kind: str
    """``gold``, ``sampled`` (a real solution), or the kind of its constructed error."""
    held_out: bool = False
    """Whether its question is kept out of training."""

    @property
    def first_error(self) -> int | None:
        """Index of the first step labelled wrong; None where there is none."""
        wrong = (index for index, label in enumerate(self.step_labels) if label < 0.5)
        return next(wrong, None)


def build_examples(config: DataConfig, seed: int) -> list[Example]:
    """Read the data files, construct the errors, split by question.

    The examples and their order do not depend on the fold that is held out, so cached
    activations serve every fold. Raises :class:`TrainingError` where a file is missing or holds
    too few questions.
    """
    constructed = construct_pairs(
        read_gold_solutions(config.gold),
        config.num_constructed + config.num_constructed_held_out,
        config.corruption_weights,
        random.Random(seed),
    )
    cut = 2 * config.num_constructed
    sampled = [
        sampled_example(solution, config.sampled_steps)
        for solution in read_model_solutions(config.model_solutions)
    ]
    return [
        *constructed[:cut],
        *(replace(example, held_out=True) for example in constructed[cut:]),
        *(replace(example, held_out=_in_held_out_fold(example, config)) for example in sampled),
    ]


def _in_held_out_fold(example: Example, config: DataConfig) -> bool:
    if config.held_out_fold is None:
        return False
    index: int = example.trajectory.metadata["question_index"]
    return index % config.num_folds == config.held_out_fold


def construct_pairs(
    solutions: Iterable[GoldSolution],
    num_questions: int,
    kind_weights: dict[str, float],
    rng: random.Random,
) -> list[Example]:
    """A right and a corrupted trajectory for each of ``num_questions``, side by side."""
    order = list(solutions)
    rng.shuffle(order)
    examples: list[Example] = []
    for index, solution in enumerate(order):
        if len(examples) == 2 * num_questions:
            break
        wrong = corrupt(solution, rng, kind_weights)
        if wrong is not None:
            group = f"constructed-{index}"
            examples += [gold_example(solution, group), corrupted_example(wrong, group)]
    if len(examples) < 2 * num_questions:
        raise TrainingError(
            f"{num_questions} constructed pairs were asked for, the gold solutions give "
            f"{len(examples) // 2}; lower num_constructed or num_constructed_held_out"
        )
    return examples


def gold_example(solution: GoldSolution, group: str) -> Example:
    """Every step of a right solution is right."""
    steps = tuple(strip_notes(step) for step in solution.steps)
    trajectory = Trajectory(
        question=solution.question,
        steps=steps,
        response=answer_response(solution.answer),
        outcome=True,
        source="gold",
    )
    return Example(trajectory, (1.0,) * len(steps), 1.0, group, "gold")


def corrupted_example(solution: CorruptedSolution, group: str) -> Example:
    """Right up to the first wrong step; that one and what builds on it are wrong."""
    trajectory = Trajectory(
        question=solution.question,
        steps=solution.steps,
        response=answer_response(solution.answer),
        outcome=False,
        source="constructed",
    )
    num_wrong = len(solution.steps) - solution.first_error
    labels = (1.0,) * solution.first_error + (0.0,) * num_wrong
    return Example(trajectory, labels, 0.0, group, solution.kind)


def sampled_example(trajectory: Trajectory, steps: Literal["none", "last", "outcome"]) -> Example:
    """A real solution, of which only the outcome is known; ``steps`` as in :class:`DataConfig`."""
    num_steps, outcome = len(trajectory.steps), float(trajectory.outcome or 0)
    if steps == "none":
        labels = (UNKNOWN,) * num_steps
    elif steps == "outcome" or outcome:
        labels = (outcome,) * num_steps
    else:
        labels = (UNKNOWN,) * (num_steps - 1) + (0.0,)
    group = f"sampled-{trajectory.metadata['question_index']}"
    return Example(trajectory, labels, outcome, group, "sampled")


def group_batches(
    examples: list[Example], lengths: list[int], batch_tokens: int, rng: random.Random
) -> list[list[int]]:
    """Indices of each optimiser step, in random order; a group is never torn apart.

    Groups of like length share a batch, so little is padded; ``batch_tokens`` bounds the padded
    tokens, but a batch holds one group at least.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.group].append(index)
    # Random noise on the sort key lets neighbours differ from epoch to epoch.
    longest = {key: max(lengths[i] for i in group) for key, group in groups.items()}
    noisy = {key: longest[key] * rng.uniform(0.85, 1.15) for key in groups}
    batches: list[list[int]] = []
    current_longest = 0
    for key in sorted(groups, key=lambda key: noisy[key]):
        rows = len(batches[-1]) + len(groups[key]) if batches else 0
        current_longest = max(current_longest, longest[key])
        if not batches or rows * current_longest > batch_tokens:
            batches.append([])
            current_longest = longest[key]
        batches[-1] += groups[key]
    rng.shuffle(batches)
    return batches
