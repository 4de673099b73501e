"""Scores that authors published of their own models, to compare with.

They were computed in bfloat16 on a GPU, so the last digits differ; the tolerances allow for that
and for nothing else: a wrong template or label is farther off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfprm_export.model_names import is_called
from rfprm_runtime.types import Trajectory, TrajectoryScore


@dataclass(frozen=True)
class PublishedScore:
    """One trace, and what its author's page says of it."""

    model: str
    """A pattern of the model's name, in small letters, without the owner."""
    source: str
    trajectory: Trajectory
    step_scores: tuple[float, ...] = ()
    trajectory_score: float | None = None
    tolerance: float = 0.02

    @property
    def expected(self) -> tuple[float, ...]:
        whole = () if self.trajectory_score is None else (self.trajectory_score,)
        return self.step_scores + whole


@dataclass(frozen=True)
class Comparison:
    """A published trace beside what a scorer gave it."""

    published: PublishedScore
    found: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The largest; infinite if the numbers of scores differ."""
        expected = self.published.expected
        if len(expected) != len(self.found):
            return float("inf")
        return float(np.abs(np.subtract(expected, self.found)).max())

    @property
    def agrees(self) -> bool:
        return self.difference <= self.published.tolerance


_APPLES = (
    "Jane has 12 apples. She gives 4 apples to her friend Mark, then buys 1 more apple, and "
    "finally splits all her apples equally among herself and her 2 siblings. How many apples does "
    "each person get?"
)
_APPLES_BEGIN = (
    "1. Jane starts with 12 apples and gives 4 to Mark. 12 - 4 = 8. Jane now has 8 apples.\n2. "
    "Jane buys 1 more apple. 8 + 1 = 9. Jane now has 9 apples.\n3. Jane splits the 9 apples "
    "equally among "
)

PUBLISHED_SCORES = (
    PublishedScore(
        model="skywork-reward-v2-llama-3.1-8b",
        source="README of SkyworkAI/Skywork-Reward-V2 (23.0 with transformers, 23.125 with SGLang)",
        trajectory=Trajectory(
            question=_APPLES,
            steps=(
                _APPLES_BEGIN + "herself and her 2 siblings (3 people in total). 9 ÷ 3 = 3 apples "
                "each. Each person gets 3 apples.",
            ),
        ),
        trajectory_score=23.0,
        tolerance=0.25,
    ),
    PublishedScore(
        model="skywork-reward-v2-llama-3.1-8b",
        source="README of SkyworkAI/Skywork-Reward-V2 (3.594 with transformers, 3.578 with SGLang)",
        trajectory=Trajectory(
            question=_APPLES,
            steps=(
                _APPLES_BEGIN + "her 2 siblings (2 people in total). 9 ÷ 2 = 4.5 apples each. Each "
                "person gets 4 apples.",
            ),
        ),
        trajectory_score=3.59375,
        tolerance=0.25,
    ),
    PublishedScore(
        model="qwen-2.5-7b-fover-prm",
        source="README of psunlpgroup/FoVer",
        trajectory=Trajectory(question="Calculate (1+1)*(1+2)", steps=("1+1=2", "1+2=3", "2*3=8")),
        step_scores=(0.90995, 0.99978, 0.01234),
    ),
)


def published_scores_of(name: str) -> tuple[PublishedScore, ...]:
    """What was published of the model called ``name`` (without its owner)."""
    return tuple(one for one in PUBLISHED_SCORES if is_called(name, one.model))


def compare(
    published: Sequence[PublishedScore], scores: Sequence[TrajectoryScore]
) -> list[Comparison]:
    """Published traces beside their ``scores``, in order."""
    return [Comparison(one, _numbers(own)) for one, own in zip(published, scores, strict=True)]


def _numbers(score: TrajectoryScore) -> tuple[float, ...]:
    whole = () if score.trajectory_score is None else (score.trajectory_score,)
    return (*(float(step) for step in score.step_scores), *whole)
