"""The expert as a judge of steps: J(s_t given x, s_<t, a), as grades on a scale."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from rfprm_runtime.types import Trajectory
from rfprm_training.labelling.expert.client import (
    ExpertClient,
    ExpertError,
    UnreadableAnswerError,
)
from rfprm_training.labelling.expert.config import PROMPT_OF
from rfprm_training.labelling.expert.forms import UnusableAnswerError
from rfprm_training.labelling.expert.prompts import load_prompt
from rfprm_training.labelling.verifier.grading import StepGrade


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")

    step: int
    reason: str = ""
    grade: float


_LEAST_SHARE = 0.05
"""Of the probability that must be on grades; a model that thinks first has next to none there."""


class StepJudge:
    """Has an LLM grade the steps of a trajectory: ``steps_per_request`` at a time in writing, or
    each by its expected grade."""

    def __init__(
        self,
        client: ExpertClient,
        *,
        scale: tuple[float, float] = (1.0, 5.0),
    ) -> None:
        """Raises :class:`ExpertError` for expected grades on a scale that one digit cannot give."""
        self._client = client
        self._scale = scale
        self._by_probability = client.config.grading == "expected"
        name = PROMPT_OF[client.config.grading]
        self._prompt = load_prompt(name, client.config.prompts)
        # With more traces at once, each would take the others' prefixes out of the server's cache.
        self._traces = asyncio.Semaphore(client.config.concurrency)
        if self._by_probability:
            grades_between(scale)

    async def grade(self, trajectory: Trajectory) -> list[StepGrade]:
        """One grade per step, on the scale; NaN, with the reason, for a step whose answer cannot be
        read. Raises like :meth:`ExpertClient.ask`, and if no step has a grade."""
        # Every request shows all steps before its own, so the last is the longest.
        self._client.check_length(sum(map(len, trajectory.steps)))
        if self._by_probability:
            # One after the other: a server that keeps prefixes then computes each step once.
            async with self._traces:
                parts = [await self._grade_one(trajectory, i) for i in range(len(trajectory.steps))]
        else:
            size = self._client.config.steps_per_request
            starts = range(0, len(trajectory.steps), size)
            parts = await asyncio.gather(*(self._grade_part(trajectory, start) for start in starts))
        found = [grade for part in parts for grade in part]
        if all(math.isnan(grade.grade) for grade in found):
            raise UnreadableAnswerError(found[0].reason)
        return found

    async def _grade_one(self, trajectory: Trajectory, index: int) -> list[StepGrade]:
        messages = self._prompt.messages(
            question=trajectory.question,
            steps=numbered(trajectory.steps[: index + 1]),
            response="\n".join(trajectory.response) or "(none)",
            step=index + 1,
        )
        logprobs = await self._client.ask_for_token(messages, self._prompt.id)
        try:
            return [StepGrade(expected_grade(logprobs, self._scale), "")]
        except UnreadableAnswerError as error:
            return [StepGrade(math.nan, str(error))]

    async def _grade_part(self, trajectory: Trajectory, start: int) -> list[StepGrade]:
        stop = min(start + self._client.config.steps_per_request, len(trajectory.steps))
        messages = self._prompt.messages(
            question=trajectory.question,
            steps=numbered(trajectory.steps[:stop]),
            response="\n".join(trajectory.response) or "(none)",
            first=start + 1,
            last=stop,
        )
        form = grades_form(start + 1, stop, self._scale)
        try:
            answer = await self._client.ask_for(form, messages, self._prompt.id)
        except UnreadableAnswerError as error:
            return [StepGrade(math.nan, str(error))] * (stop - start)
        entries: list[_Entry] = answer.grades  # type: ignore[attr-defined]
        return [StepGrade(entry.grade, entry.reason) for entry in entries]


def numbered(steps: tuple[str, ...]) -> str:
    return "\n\n".join(f"[{index}] {step}" for index, step in enumerate(steps, start=1))


def grades_between(scale: tuple[float, float]) -> range:
    """The whole grades of a scale. Raises :class:`ExpertError` unless each is one digit."""
    grades = range(math.ceil(scale[0]), math.floor(scale[1]) + 1)
    if len(grades) < 2 or grades[0] < 0 or grades[-1] > 9:
        raise ExpertError(
            f"the scale of grades is {scale[0]:g} to {scale[1]:g}; expert.grading = 'expected' "
            "reads one digit, so choose a scale of whole numbers between 0 and 9"
        )
    return grades


def expected_grade(logprobs: Mapping[str, float], scale: tuple[float, float]) -> float:
    """The mean grade under the probabilities of an answer's first token. Raises
    :class:`UnreadableAnswerError` if less than a twentieth of the probability is on grades."""
    chances = dict.fromkeys(grades_between(scale), 0.0)
    for token, logprob in logprobs.items():
        text = token.strip()
        if text.isascii() and text.isdigit() and int(text) in chances:
            chances[int(text)] += math.exp(logprob)
    total = sum(chances.values())
    if not total >= _LEAST_SHARE:
        likeliest = max(logprobs, key=lambda token: logprobs[token], default="")
        raise UnreadableAnswerError(
            f"the model's answer begins with a grade in {total:.0%} of the cases, and most often "
            f"with {likeliest!r}; set expert.grading = 'written', or use a model that answers "
            "without thinking first"
        )
    return sum(grade * chance for grade, chance in chances.items()) / total


def grades_form(first: int, last: int, scale: tuple[float, float]) -> type[BaseModel]:
    """The form of an answer for the steps ``first`` to ``last``; its error messages tell the LLM
    what to correct."""

    def check(cls: type[BaseModel], grades: list[_Entry]) -> list[_Entry]:
        expected = list(range(first, last + 1))
        got = [entry.step for entry in grades]
        if got != expected:
            raise UnusableAnswerError(f"it grades the steps {got}, expected {expected}")
        for entry in grades:
            if not scale[0] <= entry.grade <= scale[1] or math.isnan(entry.grade):
                raise UnusableAnswerError(
                    f"the grade of step {entry.step} is {entry.grade}, expected "
                    f"{scale[0]:g} to {scale[1]:g}"
                )
        return grades

    count = last - first + 1
    return create_model(
        "Grades",
        __validators__={"check": field_validator("grades")(check)},
        grades=(list[_Entry], Field(json_schema_extra={"minItems": count, "maxItems": count})),
    )
