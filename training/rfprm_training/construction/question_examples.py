"""Right and wrong trajectories to one question, with labels known by construction.

One right solution gives reworded and reordered right trajectories, wrong ones with a known first
error, flawed ones, and thinking-style versions of both. Pure and seeded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from rfprm_runtime.types import Trajectory
from rfprm_training.construction.config import ConstructionConfig
from rfprm_training.construction.corruption import CORRUPTIONS, corrupt
from rfprm_training.construction.flaws import FLAWS
from rfprm_training.construction.propagation import CorruptedSolution
from rfprm_training.construction.wording import (
    CONCLUSIONS,
    WORDINGS,
    LabelledSteps,
    reordered,
    thinking,
)
from rfprm_training.example import UNKNOWN, Example
from rfprm_training.gsm8k import GoldSolution, answer_response, strip_notes

_KEEPS_ITS_PLACE = set(CORRUPTIONS) - {"skipped_step"}


def question_examples(
    solution: GoldSolution,
    other: GoldSolution,
    group: str,
    config: ConstructionConfig,
    rng: random.Random,
    *,
    errors: int,
    cut_errors: int = 0,
    flaws: float = 0.0,
) -> list[Example]:
    """All trajectories to one question; empty if no error can be constructed.

    ``other`` is the solution to another question. ``errors`` is the maximum of wrong trajectories,
    all different; ``cut_errors`` of further ones that end with their first wrong step; ``flaws`` is
    the chance of a flawed one. All have the same style, so that style says nothing about quality
    and they share their steps up to the error.
    """
    wrong = _different_errors(solution, config, rng, errors + cut_errors)
    if not wrong:
        return []
    right = _right_variant(solution, config, rng)
    manner = _Manner(config, rng)
    examples = [_worded(_gold(right), right, wrong[0], group, "gold", manner, rng)]
    for error in wrong[:errors]:
        examples.append(_worded(_corrupted(error), solution, error, group, error.kind, manner, rng))
    examples += (_cut_short(error, group, manner) for error in wrong[errors:])
    if flaws and rng.random() < flaws:
        examples += _flawed(solution, other, group, manner, rng)
    return examples


def _different_errors(
    solution: GoldSolution, config: ConstructionConfig, rng: random.Random, count: int
) -> list[CorruptedSolution]:
    """Up to ``count`` corruptions, no two of which begin with the same wrong step."""
    found: dict[tuple[str, ...], CorruptedSolution] = {}
    for _ in range(2 * count):
        error = corrupt(solution, rng, config.corruption_weights)
        if error is None:
            break
        found.setdefault(error.steps[: error.first_error + 1], error)
        if len(found) == count:
            break
    return list(found.values())


def _cut_short(error: CorruptedSolution, group: str, manner: _Manner) -> Example:
    """The trajectory up to its first wrong step; its label as a whole is unknown."""
    labelled = _corrupted(error)
    # Reworded as a whole, then cut: the wording must not reveal where it ends.
    worded = manner.reword(labelled.trace)
    end = worded.labels.index(0.0) + 1
    labelled.trace = LabelledSteps(worded.steps[:end], worded.labels[:end])
    labelled.response, labelled.trajectory_label = (), UNKNOWN
    return labelled.as_example(group, error.kind, "constructed")


def gold_example(solution: GoldSolution, group: str) -> Example:
    """A right solution, in which every step is right."""
    return _gold(solution).as_example(group, "gold", "gold")


def corrupted_example(solution: CorruptedSolution, group: str) -> Example:
    """A wrong solution: right before the first error, wrong from it on."""
    return _corrupted(solution).as_example(group, solution.kind, "constructed")


class _Labelled:
    """A trajectory in the making: its labelled steps, its response and its label as a whole."""

    def __init__(
        self,
        question: str,
        trace: LabelledSteps,
        response: tuple[str, ...],
        trajectory_label: float,
    ) -> None:
        self.question = question
        self.trace = trace
        self.response = response
        self.trajectory_label = trajectory_label

    def as_example(self, group: str, kind: str, source: str) -> Example:
        known = not math.isnan(self.trajectory_label)
        trajectory = Trajectory(
            question=self.question,
            steps=self.trace.steps,
            response=self.response,
            outcome=self.trajectory_label > 0.5 if known else None,
            source=source,
        )
        return Example(trajectory, self.trace.labels, self.trajectory_label, group, kind)


def _gold(solution: GoldSolution) -> _Labelled:
    steps = tuple(strip_notes(step) for step in solution.steps)
    trace = LabelledSteps(steps, (1.0,) * len(steps))
    return _Labelled(solution.question, trace, answer_response(solution.answer), 1.0)


def _corrupted(solution: CorruptedSolution) -> _Labelled:
    num_wrong = len(solution.steps) - solution.first_error
    labels = (1.0,) * solution.first_error + (0.0,) * num_wrong
    trace = LabelledSteps(solution.steps, labels)
    return _Labelled(solution.question, trace, answer_response(solution.answer), 0.0)


def _right_variant(
    solution: GoldSolution, config: ConstructionConfig, rng: random.Random
) -> GoldSolution:
    if config.reordered_share and rng.random() < config.reordered_share:
        return reordered(solution, rng) or solution
    return solution


class _Manner:
    """The style of one writer, who puts the same steps in the same words."""

    def __init__(self, config: ConstructionConfig, rng: random.Random) -> None:
        self.is_thinking = bool(config.thinking_share) and rng.random() < config.thinking_share
        self.repeats_steps = rng.random() < 0.5
        concludes = bool(config.concluding_share) and rng.random() < config.concluding_share
        self._conclusion = rng.choice(CONCLUSIONS) if concludes else None
        self._wordings = config.wordings
        self._seed = rng.random()

    def conclude(self, labelled: _Labelled, answer: str) -> None:
        """State the answer in a last step instead of a response; it is as right as the whole."""
        if self._conclusion is not None:
            trace = labelled.trace
            labelled.trace = LabelledSteps(
                (*trace.steps, self._conclusion.format(answer)),
                (*trace.labels, labelled.trajectory_label),
            )
            labelled.response = ()

    def reword(self, trace: LabelledSteps) -> LabelledSteps:
        if self.is_thinking:
            return self.think(trace, [])
        return reword(trace, self._wordings, random.Random(self._seed))

    def think(
        self, trace: LabelledSteps, corrections: list[tuple[int, str, float]]
    ) -> LabelledSteps:
        return thinking(trace, random.Random(self._seed), corrections=corrections)


def _worded(
    labelled: _Labelled,
    right: GoldSolution,
    wrong: CorruptedSolution,
    group: str,
    kind: str,
    manner: _Manner,
    rng: random.Random,
) -> Example:
    """The trajectory in one writer's style, or in that of a thinking model."""
    source = "gold" if kind == "gold" else "constructed"
    if manner.is_thinking:
        said = labelled.trace.steps if manner.repeats_steps else ()
        corrections = _corrections(labelled, right, wrong, kind, rng)
        labelled.trace = manner.think(labelled.trace, corrections)
        labelled.response = (*said, *labelled.response)
    else:
        labelled.trace = manner.reword(labelled.trace)
        manner.conclude(labelled, right.answer if kind == "gold" else wrong.answer)
    return labelled.as_example(group, kind, source)


def reword(
    trace: LabelledSteps, wordings: Mapping[str, float], rng: random.Random
) -> LabelledSteps:
    """The trace in one of ``wordings`` (name → weight), drawn at random."""
    names = [name for name, weight in wordings.items() if weight > 0]
    if names == ["plain"]:
        return trace
    name = rng.choices(names, [wordings[name] for name in names])[0]
    return WORDINGS[name](trace, rng)


def _corrections(
    labelled: _Labelled,
    right: GoldSolution,
    wrong: CorruptedSolution,
    kind: str,
    rng: random.Random,
) -> list[tuple[int, str, float]]:
    """A wrong attempt that a right trace corrects, or a right step that a wrong trace abandons."""
    place = wrong.first_error
    if wrong.kind not in _KEEPS_ITS_PLACE or place >= len(labelled.trace.steps):
        return []
    if kind == "gold" and rng.random() < 0.5:
        # A reordered trace has another step at that place.
        if strip_notes(right.steps[place])[:12] != wrong.steps[place][:12]:
            return []
        return [(place, wrong.steps[place], 0.0)]
    if kind != "gold" and rng.random() < 0.25:
        return [(place, strip_notes(right.steps[place]), 1.0)]
    return []


def _flawed(
    solution: GoldSolution,
    other: GoldSolution,
    group: str,
    manner: _Manner,
    rng: random.Random,
) -> list[Example]:
    kind = rng.choice(sorted(FLAWS))
    flawed = FLAWS[kind](solution, other, rng)
    if flawed is None:
        return []
    trace = manner.reword(LabelledSteps(flawed.steps, flawed.step_labels))
    response = answer_response(flawed.answer)
    labelled = _Labelled(solution.question, trace, response, flawed.trajectory_label)
    manner.conclude(labelled, flawed.answer)
    return [labelled.as_example(group, kind, "constructed")]
