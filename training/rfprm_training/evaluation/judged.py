"""Judges an evaluation set by an LLM, as a baseline for PRMs."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rfprm_runtime.types import TrajectoryScore
from rfprm_training.example import Example
from rfprm_training.labelling.expert.budget import Usage
from rfprm_training.labelling.expert.client import ExpertClient, ExpertError
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.expert.judge import StepJudge


@dataclass(frozen=True)
class Judged:
    """An LLM's grades as scores, and what they took."""

    scores: list[TrajectoryScore | None]
    """None where the LLM gave no usable answer for a step."""
    usage: Usage
    seconds: float
    problems: dict[str, int]
    """Why there is no score, the most frequent reason first, and how often."""

    def as_dict(self) -> dict[str, Any]:
        """All but the scores."""
        return {
            "usage": asdict(self.usage),
            "seconds": self.seconds,
            "problems": self.problems,
        }

    def __str__(self) -> str:
        told = f"judged in {self.seconds:,.1f} s: {self.usage}"
        if not self.problems:
            return told
        reason, count = next(iter(self.problems.items()))
        return (
            f"{told}; without a score {sum(self.problems.values()):,}, {count:,} of them: {reason}"
        )


def judge_set(
    examples: Sequence[Example],
    config: ExpertConfig,
    *,
    scale: tuple[float, float] = (1.0, 5.0),
    on_judged: Callable[[int], None] = lambda count: None,
) -> Judged:
    """An LLM's grades of every step, on ``scale``, as scores in [0, 1]. ``on_judged`` is called
    with the number of trajectories that are done since the last call.

    Raises :class:`~rfprm_training.labelling.expert.client.ServerRefusedError` if no request can
    succeed, and :class:`~rfprm_training.labelling.expert.budget.BudgetSpentError`.
    """
    problems: Counter[str] = Counter()

    async def run() -> tuple[list[TrajectoryScore | None], Usage]:
        async with ExpertClient(config) as client:
            judge = StepJudge(client, scale=scale)

            async def one(example: Example) -> TrajectoryScore | None:
                try:
                    grades = await judge.grade(example.trajectory)
                except ExpertError as error:
                    problems[str(error)] += 1
                    return None
                finally:
                    on_judged(1)
                unread = next((grade for grade in grades if math.isnan(grade.grade)), None)
                if unread is not None:
                    problems[unread.reason] += 1
                    return None
                return _as_score([grade.grade for grade in grades], scale)

            return await asyncio.gather(*map(one, examples)), client.usage

    start = time.perf_counter()
    scores, usage = asyncio.run(run())
    return Judged(scores, usage, time.perf_counter() - start, dict(problems.most_common()))


def _as_score(grades: Sequence[float], scale: tuple[float, float]) -> TrajectoryScore:
    low, high = scale
    values = ((np.array(grades) - low) / (high - low)).astype(np.float32)
    return TrajectoryScore(
        step_scores=values, trajectory_score=None, reward=float(np.mean(values)), num_tokens=0
    )
