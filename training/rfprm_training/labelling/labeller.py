"""Computes the rewards of trajectories: the components, the expert's grades, the fused reward."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.labelling.config import LabelConfig
from rfprm_training.labelling.encoders import SentenceEncoder, SentenceTransformerEncoder
from rfprm_training.labelling.expert.budget import Usage
from rfprm_training.labelling.expert.client import ExpertClient, ExpertError
from rfprm_training.labelling.expert.judge import StepJudge
from rfprm_training.labelling.negatives import NegativePool
from rfprm_training.labelling.pairing import pair_steps
from rfprm_training.labelling.right_solutions import RightSolutions
from rfprm_training.labelling.step_rewards import (
    alignment_rewards,
    coherence_rewards,
    fuse,
    quality_rewards,
)
from rfprm_training.labelling.trajectory_reward import (
    TemplateReward,
    TrajectoryReward,
    outcome_reward,
)
from rfprm_training.labelling.verifier.grading import StepGrade, grade_steps
from rfprm_training.rewarded import RewardedTrajectory, known_or_none, question_key

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class _Vectors:
    question: FloatArray  # [d]
    steps: FloatArray  # [T, d]
    response: FloatArray  # [R, d]


class Labeller:
    """Rewards trajectories by one config. An async context manager."""

    def __init__(
        self,
        config: LabelConfig,
        *,
        encoder: SentenceEncoder | None = None,
        negatives: NegativePool | None = None,
        right_solutions: RightSolutions | None = None,
    ) -> None:
        """``encoder`` replaces the config's. Coherence needs ``negatives``. ``right_solutions`` are
        references of the verifier beside those in the rows."""
        self.config = config
        self._right_solutions = right_solutions
        self._encoder = encoder
        self._negatives = negatives
        self._exit = AsyncExitStack()
        self._checker = AnswerChecker(timeout=config.trajectory.answer_timeout)
        self._judge: StepJudge | None = None
        self._template: TemplateReward | None = None
        self._clients: dict[str, ExpertClient] = {}

    async def __aenter__(self) -> Labeller:
        config = self.config
        if config.expert is not None:
            expert = await self._exit.enter_async_context(ExpertClient(config.expert))
            self._clients["expert"] = expert
            self._judge = StepJudge(expert, scale=config.steps.quality_scale)
            policy_config = (config.policy or config.expert).model_copy(
                update={
                    "temperature": config.trajectory.temperature,
                    "max_answer_tokens": config.trajectory.max_answer_tokens,
                }
            )
            if config.trajectory.kind == "template":
                policy = await self._exit.enter_async_context(ExpertClient(policy_config))
                self._clients["policy"] = policy
                self._template = TemplateReward(
                    expert, policy, self._checker, num_answers=config.trajectory.num_answers
                )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._checker.close()
        await self._exit.aclose()

    @property
    def usage(self) -> dict[str, Usage]:
        return {name: client.usage for name, client in self._clients.items()}

    async def label(
        self, trajectories: list[Trajectory]
    ) -> list[RewardedTrajectory | BaseException]:
        """One result per trajectory, in order. If an expert cannot answer, the reward is unknown.
        An exception in place of a result means that the run should stop there."""
        vectors = self._encode(trajectories)
        return await asyncio.gather(
            *map(self._label_one, trajectories, vectors), return_exceptions=True
        )

    def _encode(self, trajectories: list[Trajectory]) -> list[_Vectors | None]:
        if not {"alignment", "coherence"} & set(self.config.steps.components):
            return [None] * len(trajectories)
        if self._encoder is None:
            self._encoder = SentenceTransformerEncoder(self.config.steps.encoder)
        texts = [text for t in trajectories for text in (t.question, *t.steps, *t.response)]
        vectors = self._encoder.encode(texts).astype(np.float64)
        out: list[_Vectors | None] = []
        start = 0
        for t in trajectories:
            stop = start + 1 + len(t.steps)
            end = stop + len(t.response)
            out.append(_Vectors(vectors[start], vectors[start + 1 : stop], vectors[stop:end]))
            start = end
        return out

    async def _label_one(
        self, trajectory: Trajectory, vectors: _Vectors | None
    ) -> RewardedTrajectory:
        errors: list[str] = []
        components: dict[str, FloatArray] = {}
        reasons: list[str] | None = None
        for name in self.config.steps.components:
            if name == "quality":
                components[name], reasons = await self._quality(trajectory, errors)
            elif vectors is not None:
                of = self._alignment if name == "alignment" else self._coherence
                components[name] = of(trajectory, vectors)
        final = await self._trajectory_reward(trajectory, errors)
        fused = fuse(components, temperature=self.config.steps.fusion_temperature)
        return RewardedTrajectory(
            trajectory=trajectory,
            step_rewards=known_or_none(fused),
            components={name: known_or_none(values) for name, values in components.items()},
            quality_reasons=None if reasons is None else tuple(reasons),
            trajectory_reward=None if math.isnan(final.reward) else final.reward,
            errors=tuple(errors),
        )

    def _alignment(self, trajectory: Trajectory, vectors: _Vectors) -> FloatArray:
        if self.config.steps.pairing == "nearest":
            return alignment_rewards(vectors.steps, vectors.response)
        pairs = pair_steps(vectors.steps, vectors.response)
        if self.config.steps.pairing == "merged":
            return self._merged_alignment(trajectory, vectors, pairs)
        paired = np.where(pairs < len(vectors.response), pairs, -1)
        return alignment_rewards(vectors.steps, vectors.response, paired)

    def _merged_alignment(
        self, trajectory: Trajectory, vectors: _Vectors, pairs: NDArray[np.int64]
    ) -> FloatArray:
        """Alignment where the steps paired with one response step are encoded as one text, and
        share its reward."""
        assert self._encoder is not None
        texts = {
            pair: "\n\n".join(
                step for step, of in zip(trajectory.steps, pairs, strict=True) if of == pair
            )
            for pair in sorted(set(pairs.tolist()))
        }
        merged = self._encoder.encode(list(texts.values())).astype(np.float64)
        rewards = alignment_rewards(merged, vectors.response, np.array(list(texts)))
        by_pair = dict(zip(texts, rewards, strict=True))
        return np.array([by_pair[pair] for pair in pairs.tolist()])

    def _coherence(self, trajectory: Trajectory, vectors: _Vectors) -> FloatArray:
        if self._negatives is None:
            raise TrainingError("coherence needs negatives, which are steps of other questions")
        settings = self.config.steps
        previous = np.concatenate([vectors.question[None], vectors.steps[:-1]])
        negatives = self._negatives.draw(question_key(trajectory.question), settings.num_negatives)
        rewards = coherence_rewards(
            previous, vectors.steps, negatives, temperature=settings.coherence_temperature
        )
        if settings.first_step == "unknown":
            rewards[0] = math.nan
        return rewards

    async def _quality(
        self, trajectory: Trajectory, errors: list[str]
    ) -> tuple[FloatArray, list[str]]:
        settings = self.config.steps
        verified = self._verify(trajectory)
        if settings.quality == "verifier":
            return np.array([g.grade for g in verified]), [g.reason for g in verified]
        assert self._judge is not None
        try:
            judged = await self._judge.grade(trajectory)
        except ExpertError as error:
            errors.append(f"quality: {error}")
            nothing = np.full(len(trajectory.steps), math.nan)
            return nothing, [""] * len(trajectory.steps)
        errors += _unread(judged)
        low, high = settings.quality_scale
        grades = quality_rewards([g.grade for g in judged], lowest=low, highest=high)
        reasons = ["" if math.isnan(g.grade) else g.reason for g in judged]
        if settings.quality == "both":
            for index, found in enumerate(verified):
                if found.grade == 0:
                    grades[index], reasons[index] = 0.0, found.reason
        return grades, reasons

    async def _trajectory_reward(
        self, trajectory: Trajectory, errors: list[str]
    ) -> TrajectoryReward:
        kind = self.config.trajectory.kind
        if kind == "none":
            return TrajectoryReward(math.nan)
        try:
            if kind == "template":
                assert self._template is not None
                found = await self._template.reward(trajectory)
            else:
                found = outcome_reward(trajectory, self._checker)
        except ExpertError as error:
            found = TrajectoryReward(math.nan, str(error))
        if math.isnan(found.reward):
            errors.append(f"trajectory reward: {found.reason}")
        return found

    def _verify(self, trajectory: Trajectory) -> list[StepGrade]:
        references = [] if (given := _reference(trajectory)) is None else [given]
        if self._right_solutions is not None:
            references += self._right_solutions.to(trajectory.question)
        outcome = None if trajectory.outcome is None else trajectory.outcome > 0.5
        return grade_steps(
            trajectory.question, trajectory.steps, references=references, outcome=outcome
        )


def _unread(grades: Sequence[StepGrade]) -> list[str]:
    """Why which steps have no grade, once for each reason."""
    steps: dict[str, list[str]] = {}
    for number, grade in enumerate(grades, start=1):
        if math.isnan(grade.grade):
            steps.setdefault(grade.reason, []).append(str(number))
    return [
        f"quality of step{'s' if len(of) > 1 else ''} {', '.join(of)}: {reason}"
        for reason, of in steps.items()
    ]


def _reference(trajectory: Trajectory) -> Sequence[str] | None:
    """The steps of a right solution that the row brings along."""
    reference = trajectory.metadata.get("reference")
    is_list = isinstance(reference, (list, tuple)) and all(isinstance(s, str) for s in reference)
    return reference if is_list and reference else None
