"""The examples of a run, constructed ones and real ones with their outcomes, and their batches."""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.construction.config import ConstructionConfig
from rfprm_training.construction.procedures import procedure_examples
from rfprm_training.construction.question_examples import question_examples, reword
from rfprm_training.construction.sampling.next_steps import graded_examples, read_next_steps
from rfprm_training.construction.wording import LabelledSteps
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.gsm8k import (
    GoldSolution,
    read_gold_solutions,
    read_model_solutions,
    strip_notes,
)
from rfprm_training.labelling.verifier import find_equations, grade_steps
from rfprm_training.learning.config import (
    DataConfig,
    RewardedDataConfig,
    SampledSteps,
)
from rfprm_training.rewarded import fold_of, is_held_out, question_key, read_rewarded

__all__ = [
    "UNKNOWN",
    "Example",
    "build_examples",
    "group_batches",
    "has_a_label",
    "sampled_example",
]


def build_examples(config: DataConfig | RewardedDataConfig, seed: int) -> list[Example]:
    """All examples of a run, held-out ones included.

    Raises :class:`TrainingError` if a file is missing, damaged or too small.
    """
    if isinstance(config, RewardedDataConfig):
        return rewarded_examples(config)
    return gsm8k_examples(config, seed)


def rewarded_examples(config: RewardedDataConfig) -> list[Example]:
    """Rewarded trajectories with at least one reward. Raises :class:`TrainingError` if a question
    is both trained on and held out."""
    trained = [row.as_example() for path in config.train for row in read_rewarded(path)]
    if config.evaluation:
        held_out = [
            row.as_example(held_out=True)
            for path in config.evaluation
            for row in read_rewarded(path)
        ]
        both = {example.group for example in trained} & {example.group for example in held_out}
        if both:
            question = next(e.trajectory.question for e in held_out if e.group in both)
            raise TrainingError(
                f"{len(both)} questions are both trained on and held out, for example "
                f"{question[:80]!r}; curate the training data with --not-in"
            )
    else:
        held_out = []
        trained = [replace(e, held_out=_is_held_out(e.group, config)) for e in trained]
    return [e for e in (*trained, *held_out) if has_a_label(e)]


def _is_held_out(group: str, config: RewardedDataConfig) -> bool:
    if config.held_out_fold is None:
        return is_held_out(group, config.held_out_share)
    return fold_of(group, config.num_folds) == config.held_out_fold


def has_a_label(example: Example) -> bool:
    """Whether training can learn anything from it."""
    return not all(math.isnan(x) for x in (*example.step_labels, example.trajectory_label))


def gsm8k_examples(config: DataConfig, seed: int) -> list[Example]:
    """Read GSM8K's files, construct the errors, split by question.

    The examples and their order do not depend on the held-out fold, so all folds share the cached
    activations. Raises :class:`TrainingError` if a file is missing or holds too few questions.
    """
    solutions = read_gold_solutions(config.gold)
    constructed = construct_examples(solutions, config, seed)
    constructed += _next_steps(solutions, constructed, config, seed)
    constructed += _procedures(config, seed)
    if config.model_solutions is not None:
        sampled = sampled_examples(read_model_solutions(config.model_solutions), config, seed)
        constructed += (
            replace(example, held_out=_in_held_out_fold(example, config)) for example in sampled
        )
    return [*constructed, *_rewarded(constructed, config)]


def _rewarded(others: Sequence[Example], config: DataConfig) -> list[Example]:
    """Examples of ``rewarded`` files whose questions none of the ``others`` holds out."""
    held_out = {question_key(e.trajectory.question) for e in others if e.held_out}
    examples = (row.as_example() for path in config.rewarded for row in read_rewarded(path))
    return [e for e in examples if has_a_label(e) and e.group not in held_out]


def _next_steps(
    solutions: list[GoldSolution], constructed: list[Example], config: DataConfig, seed: int
) -> list[Example]:
    """Sampled next steps, in the groups of their questions, so that they share a token tree with
    the constructed trajectories."""
    if config.next_steps is None:
        return []
    held_out = {example.group for example in constructed if example.held_out}
    by_question = {solution.question: solution for solution in solutions}
    found: list[Example] = []
    for row in read_next_steps(config.next_steps):
        if row.question not in by_question:
            raise TrainingError(
                f"{config.next_steps} has a question that is not in {config.gold}: "
                f"{row.question[:80]!r}; run rfprm sample on that file"
            )
        group = _constructed_group(seed, row.question)
        if group not in held_out:
            found += graded_examples(row, by_question[row.question], group)
    return found


def _constructed_group(seed: int, question: str) -> str:
    return f"constructed-{_hash(seed, question)[:12]}"


def _procedures(config: DataConfig, seed: int) -> list[Example]:
    counts, recipe = config.procedures, config.construction
    turns = range(max(counts.values(), default=0))
    kinds = [kind for turn in turns for kind in sorted(counts) if turn < counts[kind]]
    return [
        example
        for index, kind in enumerate(kinds)
        for example in procedure_examples(
            kind,
            f"procedure-{index}",
            random.Random(_of_variant(f"{seed} procedure {index}", config)),
            errors=recipe.errors_per_question,
            cut_errors=recipe.cut_errors_per_procedure,
        )
    ]


def _in_held_out_fold(example: Example, config: DataConfig) -> bool:
    if config.held_out_fold is None:
        return False
    index: int = example.trajectory.metadata["question_index"]
    return index % config.num_folds == config.held_out_fold


def construct_examples(
    solutions: list[GoldSolution], config: DataConfig, seed: int
) -> list[Example]:
    """Examples from ``num_constructed`` questions to train on and ``num_constructed_held_out``
    others.

    Questions are ordered by a hash: held-out ones come from the front, trained ones from the back,
    and each has its own generator. So neither the split nor the examples of a question depend on
    the rest. Solutions with a false equation are skipped. A held-out question gives one right and
    one wrong trajectory.
    """
    ordered = by_hash(solutions, seed)
    held_out, used = _take(ordered, config.num_constructed_held_out, config, seed, held_out=True)
    others = ordered[used:][::-1][config.skip_constructed :]
    trained, _ = _take(others, config.num_constructed, config, seed, held_out=False)
    return [*trained, *held_out]


def by_hash(solutions: Sequence[GoldSolution], seed: int) -> list[GoldSolution]:
    """In an order that depends on nothing but each question and the seed: what is held out comes
    first, what is trained on last."""
    return sorted(solutions, key=lambda solution: _hash(seed, solution.question))


def _hash(seed: int, question: str) -> str:
    return hashlib.sha256(f"{seed} {question}".encode()).hexdigest()


def _take(
    solutions: list[GoldSolution],
    num_questions: int,
    config: DataConfig,
    seed: int,
    *,
    held_out: bool,
) -> tuple[list[Example], int]:
    """Examples of the first ``num_questions`` that give any, and how many solutions were tried."""
    recipe = config.construction
    examples: list[Example] = []
    found_questions = 0
    for index, solution in enumerate(solutions):
        if found_questions == num_questions:
            return examples, index
        if has_slip(solution):
            continue
        key = _hash(seed, solution.question)
        found = question_examples(
            solution,
            solutions[index - 1],
            _constructed_group(seed, solution.question),
            recipe,
            random.Random(key if held_out else _of_variant(key, config)),
            errors=1 if held_out else recipe.errors_per_question,
            cut_errors=0 if held_out else recipe.cut_errors_per_question,
            flaws=0.0 if held_out else recipe.flawed_share,
        )
        found_questions += bool(found)
        examples += (replace(example, held_out=held_out) for example in found)
    if found_questions < num_questions:
        raise TrainingError(
            f"the config asks for {num_questions} constructed questions, but {len(solutions)} gold "
            f"solutions give only {found_questions}; lower num_constructed, skip_constructed or "
            "num_constructed_held_out"
        )
    return examples, len(solutions)


def _of_variant(key: str, config: DataConfig) -> str:
    return f"{key} {config.variant}" if config.variant else key


def has_slip(solution: GoldSolution) -> bool:
    """Whether a gold solution has a false equation."""
    return any(
        equation.holds is False
        for step in solution.steps
        for equation in find_equations(strip_notes(step))
    )


def sampled_examples(
    trajectories: list[Trajectory], config: DataConfig, seed: int
) -> list[Example]:
    """Real solutions, each ``sampled_repeats`` times: first as written, then reworded."""
    references: dict[Any, list[tuple[str, ...]]] = defaultdict(list)
    for trajectory in trajectories:
        index = trajectory.metadata["question_index"]
        if not references[index]:
            references[index].append(trajectory.metadata["reference"])
        if trajectory.outcome:
            references[index].append(trajectory.steps)
    first = [
        sampled_example(
            trajectory, config.sampled_steps, references[trajectory.metadata["question_index"]]
        )
        for trajectory in trajectories
    ]
    return first + [
        _reworded(example, config.construction, random.Random(f"{seed} {repeat} {index}"))
        for repeat in range(1, config.sampled_repeats)
        for index, example in enumerate(first)
    ]


def _reworded(example: Example, config: ConstructionConfig, rng: random.Random) -> Example:
    trace = LabelledSteps(example.trajectory.steps, example.step_labels)
    trace = reword(trace, config.wordings, rng)
    trajectory = example.trajectory.model_copy(update={"steps": trace.steps})
    return replace(example, trajectory=trajectory, step_labels=trace.labels, kind="reworded")


def sampled_example(
    trajectory: Trajectory, steps: SampledSteps, references: list[tuple[str, ...]]
) -> Example:
    """A real solution whose outcome alone is known, as an example.

    ``steps`` as ``sampled_steps`` in :class:`DataConfig`; ``references`` are right solutions to
    its question.
    """
    num_steps, outcome = len(trajectory.steps), float(trajectory.outcome or 0)
    if steps == "none":
        labels: tuple[float, ...] = (UNKNOWN,) * num_steps
    elif steps == "verified":
        grades = grade_steps(
            trajectory.question,
            trajectory.steps,
            references=references,
            outcome=bool(trajectory.outcome),
        )
        labels = tuple(grade.grade for grade in grades)
    elif steps == "outcome" or outcome:
        labels = (outcome,) * num_steps
    else:
        labels = (UNKNOWN,) * (num_steps - 1) + (0.0,)
    group = f"sampled-{trajectory.metadata['question_index']}"
    return Example(trajectory, labels, outcome, group, "sampled")


def group_batches(
    groups: Sequence[str], lengths: Sequence[int], batch_tokens: int, rng: random.Random
) -> list[list[int]]:
    """Row indices of each optimiser step, in random order; a group is never split.

    ``groups`` and ``lengths`` are those of the rows. Groups of similar length share a batch, which
    keeps padding small. ``batch_tokens`` bounds the padded tokens, but every batch holds at least
    one group.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    # Noise on the sort key makes batches differ between epochs; more noise would pad more.
    longest = {key: max(lengths[i] for i in group) for key, group in members.items()}
    noisy = {key: longest[key] * rng.uniform(0.94, 1.06) for key in members}
    batches: list[list[int]] = []
    current_longest = 0
    for key in sorted(members, key=lambda key: noisy[key]):
        rows = len(batches[-1]) + len(members[key]) if batches else 0
        current_longest = max(current_longest, longest[key])
        if not batches or rows * current_longest > batch_tokens:
            batches.append([])
            current_longest = longest[key]
        batches[-1] += members[key]
    rng.shuffle(batches)
    return batches
