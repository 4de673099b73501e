"""Steps of other questions, sampled with a seed from a stream of any length."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_training import TrainingError
from rfprm_training.labelling.encoders import SentenceEncoder


@dataclass(frozen=True)
class Negative:
    """A step, and the key of its question."""

    question: str
    text: str


def sample_steps(steps: Iterable[Negative], size: int, seed: int) -> list[Negative]:
    """A uniform sample of a stream without replacement, in one pass (Vitter's algorithm R)."""
    rng = random.Random(seed)
    kept: list[Negative] = []
    for index, step in enumerate(steps):
        if index < size:
            kept.append(step)
        else:
            place = rng.randint(0, index)
            if place < size:
                kept[place] = step
    return kept


class NegativePool:
    """The sampled steps with their vectors, from which a trajectory draws its negatives."""

    def __init__(self, steps: list[Negative], encoder: SentenceEncoder, seed: int) -> None:
        self._questions = np.array([step.question for step in steps])
        self._vectors = encoder.encode([step.text for step in steps])
        self._seed = seed

    def draw(self, question: str, count: int) -> NDArray[np.float32]:
        """Vectors [count, d] of steps of other questions.

        They depend on question and seed alone, not on what else is labelled or in which order.
        Raises :class:`TrainingError` if the data has no other question.
        """
        others = np.flatnonzero(self._questions != question)
        if not len(others):
            raise TrainingError(
                "coherence compares a step with steps of other questions, but the data has only "
                "one; leave coherence out of steps.components"
            )
        rng = np.random.default_rng([self._seed, int(question, 16)])
        chosen = rng.choice(others, size=count, replace=len(others) < count)
        vectors: NDArray[np.float32] = self._vectors[chosen]
        return vectors
