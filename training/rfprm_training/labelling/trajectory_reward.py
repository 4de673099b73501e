"""The reward of a whole trajectory: the paper's, guided by a template, and the cheap outcome."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from pydantic import BaseModel, field_validator

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.types import Trajectory
from rfprm_training.labelling.expert.client import ExpertClient
from rfprm_training.labelling.expert.forms import UnusableAnswerError
from rfprm_training.labelling.expert.judge import numbered
from rfprm_training.labelling.expert.prompts import load_prompt


@dataclass(frozen=True)
class TrajectoryReward:
    """A reward in [0, 1], or NaN if it is unknown, with the reason."""

    reward: float
    reason: str = ""


class _Template(BaseModel):
    template: list[str]

    @field_validator("template")
    @classmethod
    def _says_something(cls, template: list[str]) -> list[str]:
        instructions = [step.strip() for step in template if step.strip()]
        if not instructions:
            raise UnusableAnswerError("the template has no instruction")
        return instructions


def outcome_reward(trajectory: Trajectory, checker: AnswerChecker) -> TrajectoryReward:
    """Whether the trace itself is right: its recorded outcome, or else its final answer compared
    with the reference answer in ``metadata["answer"]``."""
    if trajectory.outcome is not None:
        return TrajectoryReward(float(trajectory.outcome))
    target = trajectory.metadata.get("answer")
    if not isinstance(target, str):
        return TrajectoryReward(math.nan, "it has neither an outcome nor a reference answer")
    answer = final_answer("\n".join(trajectory.response or trajectory.steps[-1:]))
    if answer is None:
        return TrajectoryReward(0.0, "the trace ends without an answer")
    agrees = checker.agree(answer, target)
    if agrees is None:
        return TrajectoryReward(math.nan, f"{answer!r} could not be compared with {target!r}")
    return TrajectoryReward(float(agrees))


class TemplateReward:
    """r_final of the paper: the expert extracts a template from the trace, a policy answers the
    question by it N times, and the reward is the share of right answers."""

    def __init__(
        self,
        expert: ExpertClient,
        policy: ExpertClient,
        checker: AnswerChecker,
        *,
        num_answers: int,
    ) -> None:
        self._expert = expert
        self._policy = policy
        self._checker = checker
        self._num_answers = num_answers
        self._extract = load_prompt("extract_template", expert.config.prompts)
        self._answer = load_prompt("answer_by_template", expert.config.prompts)

    async def reward(self, trajectory: Trajectory) -> TrajectoryReward:
        """The share of right answers; unknown if none can be compared. A single answer that cannot
        be compared counts as wrong. Raises like :meth:`ExpertClient.ask`."""
        target = trajectory.metadata.get("answer")
        if not isinstance(target, str):
            return TrajectoryReward(math.nan, "it has no reference answer")
        template = await self._template(trajectory)
        messages = self._answer.messages(
            question=trajectory.question, template=numbered(tuple(template))
        )
        texts = await asyncio.gather(
            *(
                self._policy.ask(messages, self._answer.id, seed=seed)
                for seed in range(self._num_answers)
            )
        )
        verdicts = [self._checker.agree(final_answer(text), target) for text in texts]
        if all(verdict is None for verdict in verdicts):
            return TrajectoryReward(math.nan, "no answer could be compared with the reference")
        return TrajectoryReward(sum(verdict is True for verdict in verdicts) / len(verdicts))

    async def _template(self, trajectory: Trajectory) -> list[str]:
        messages = self._extract.messages(
            question=trajectory.question,
            steps=numbered(trajectory.steps),
            response="\n".join(trajectory.response) or "(none)",
        )
        return (await self._expert.ask_for(_Template, messages, self._extract.id)).template
