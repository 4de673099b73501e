"""Trajectories in, rewarded trajectories out: the components, the expert, the fused reward.

Two passes over a file: one that learns its fingerprint and draws the steps which coherence compares
with, one that labels. Memory holds a batch and the drawn steps, whatever the size of the file.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.answers import AnswerChecker
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.parsing import SplitRule
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import Source, open_source
from rfprm_runtime.types import Trajectory
from rfprm_runtime.whole_files import check_target, errors_path_of
from rfprm_training import TrainingError
from rfprm_training.encoders import SentenceEncoder, SentenceTransformerEncoder
from rfprm_training.expert.budget import BudgetSpentError, Usage
from rfprm_training.expert.client import ExpertClient, ExpertError
from rfprm_training.expert.judge import StepJudge
from rfprm_training.label_config import LabelConfig
from rfprm_training.pairing import pair_steps
from rfprm_training.reservoir import Negative, NegativePool, sample_steps
from rfprm_training.resumable import ResumableLines, check_free
from rfprm_training.rewarded import RewardedTrajectory, known_or_none, question_key
from rfprm_training.step_rewards import (
    alignment_rewards,
    coherence_rewards,
    fuse,
    quality_rewards,
)
from rfprm_training.trajectory_reward import TemplateReward, TrajectoryReward, outcome_reward
from rfprm_training.verifier.grading import StepGrade, grade_steps

FloatArray = NDArray[np.float64]


@dataclass
class LabelSummary:
    """What :func:`label_file` did."""

    num_labelled: int = 0
    num_failed: int = 0
    """Records that are no trajectory; they are listed in the errors file."""
    num_incomplete: int = 0
    """Labelled trajectories of which something could not be found out (their ``errors`` say)."""
    stopped: str | None = None
    """Why it stopped before the end; run it again to go on."""
    usage: dict[str, Usage] = field(default_factory=dict)


@dataclass(frozen=True)
class _Vectors:
    question: FloatArray  # [d]
    steps: FloatArray  # [T, d]
    response: FloatArray  # [R, d]


class Labeller:
    """Rewards for trajectories, by one config. Use as an async context manager."""

    def __init__(
        self,
        config: LabelConfig,
        *,
        encoder: SentenceEncoder | None = None,
        negatives: NegativePool | None = None,
    ) -> None:
        """``encoder`` replaces the config's; ``negatives`` are needed for coherence."""
        self.config = config
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
        """One result for each, in order. What an expert cannot answer leaves a reward unknown; an
        exception in a result's place means that the run should stop there."""
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
        """Steps that go with one response step are encoded as one, and share its reward."""
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
            raise TrainingError("coherence needs negatives: steps of other questions")
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
        verified = _verify(trajectory)
        if settings.quality == "verifier":
            return np.array([g.grade for g in verified]), [g.reason for g in verified]
        assert self._judge is not None
        try:
            judged = await self._judge.grade(trajectory)
        except ExpertError as error:
            errors.append(f"quality: {error}")
            nothing = np.full(len(trajectory.steps), math.nan)
            return nothing, [""] * len(trajectory.steps)
        low, high = settings.quality_scale
        grades = quality_rewards([g.grade for g in judged], lowest=low, highest=high)
        reasons = [g.reason for g in judged]
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


def _verify(trajectory: Trajectory) -> list[StepGrade]:
    reference = trajectory.metadata.get("reference")
    is_list = isinstance(reference, (list, tuple)) and all(isinstance(s, str) for s in reference)
    outcome = None if trajectory.outcome is None else trajectory.outcome > 0.5
    return grade_steps(
        trajectory.question,
        trajectory.steps,
        references=[reference] if is_list and reference else [],
        outcome=outcome,
    )


def label_file(
    source: str,
    output: Path,
    config: LabelConfig,
    *,
    split: SplitRule = "blank_lines",
    overwrite: bool = False,
    encoder: SentenceEncoder | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> LabelSummary:
    """Label every trajectory of ``source`` into the JSONL file ``output``.

    Run again after a kill it goes on where it stopped, and gives the bytes of a run that was never
    stopped. What it goes on with is known by the content of ``source``: a JSONL or Parquet file, or
    a data set of the Hub, which is downloaded. Records that are no trajectories are listed in
    ``output.errors.jsonl``.

    Raises :class:`TrainingError` where an earlier run with another input or other settings was not
    finished (``overwrite`` begins again) and where the input changes meanwhile, and
    :class:`RfprmError` where an output would replace the input.
    """
    for target in (output, errors_path_of(output)):
        check_target(target, reads=[Path(source)])
    check_free(output, overwrite=overwrite)
    with closing(open_source(source)) as opened:
        steps: list[Negative] = []
        if "coherence" in config.steps.components:
            every_step = _all_steps(opened, Reading(split))
            steps = sample_steps(every_step, config.steps.reservoir_size, config.seed)
        key = {
            "source": opened.name,  # labels name it
            "input": opened.fingerprint(),
            "split": split,
            "config": what_labels_depend_on(config),
        }
        with ResumableLines(output, key, overwrite=overwrite) as lines:
            pool = None
            if "coherence" in config.steps.components:
                encoder = encoder or SentenceTransformerEncoder(config.steps.encoder)
                pool = NegativePool(steps, encoder, config.seed)
            labeller = Labeller(config, encoder=encoder, negatives=pool)
            summary = asyncio.run(
                _label_into(lines, labeller, _traces(opened, Reading(split)), on_progress)
            )
            if summary.stopped is None:
                if opened.fingerprint() != key["input"]:
                    raise TrainingError(
                        f"{source} changed while it was labelled, so {output} would be of two "
                        "inputs; run it again with --overwrite"
                    )
                lines.finish()
            return summary


def what_labels_depend_on(config: LabelConfig) -> dict[str, Any]:
    """The settings without those that only say how fast, how dear and how patient a run may be."""
    how = {
        *("concurrency", "timeout", "max_attempts", "max_wait", "cache", "api_key_env"),
        *("price_per_million_prompt_tokens", "price_per_million_answer_tokens"),
        *("max_cost", "max_tokens"),
    }
    dumped: dict[str, Any] = config.model_dump(
        mode="json", exclude={"batch_size": True, "expert": how, "policy": how}
    )
    return dumped


def _traces(source: Source, reading: Reading) -> Iterator[Record]:
    for record in source.records(reading):
        yield from record.each()


def _all_steps(source: Source, reading: Reading) -> Iterator[Negative]:
    for record in _traces(source, reading):
        if isinstance(record.trajectory, Trajectory):
            key = question_key(record.trajectory.question)
            for step in record.trajectory.steps:
                yield Negative(key, step)


async def _label_into(
    lines: ResumableLines,
    labeller: Labeller,
    records: Iterable[Record],
    on_progress: Callable[[int], None] | None,
) -> LabelSummary:
    summary = LabelSummary()
    # What is done is passed over, and its trajectories are not even read.
    left = islice(records, lines.num_done, None)
    async with labeller:
        for batch in _batches(left, labeller.config.batch_size):
            summary.stopped = await _label_batch(lines, labeller, batch, summary)
            if on_progress is not None:
                on_progress(lines.num_done)
            if summary.stopped is not None:
                break
        summary.usage = labeller.usage
    summary.num_labelled, summary.num_failed = lines.num_lines, lines.num_errors
    return summary


async def _label_batch(
    lines: ResumableLines, labeller: Labeller, batch: list[Record], summary: LabelSummary
) -> str | None:
    """Write what the batch gives, in order; why to stop, if so."""
    found = [record.trajectory for record in batch]
    results = iter(await labeller.label([item for item in found if isinstance(item, Trajectory)]))
    for record, item in zip(batch, found, strict=True):
        if isinstance(item, InvalidTrajectoryError):
            lines.write_error({"record": str(record.place), "error": str(item)})
            continue
        result = next(results)
        if isinstance(result, BudgetSpentError):
            return str(result)
        if isinstance(result, BaseException):
            raise result
        summary.num_incomplete += bool(result.errors)
        lines.write(result.to_line())
    return None


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch
