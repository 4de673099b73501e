"""What the adapters share: questions and completions in, rewards of Eq. 12 out.

Knows scorers and answers, but no RL stack.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.references import acceptable_answers
from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError
from rfprm_runtime.ground.arguments import check_one_for_each
from rfprm_runtime.ground.running import uninterrupted
from rfprm_runtime.rewards.advantages import mixed_reward
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from rfprm_runtime.rewards.outcomes import Outcome as Outcome
from rfprm_runtime.rewards.outcomes import judge_completions
from rfprm_runtime.rewards.settings import RewardSettings as RewardSettings
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.aggregation import Aggregation, aggregate, value_bounds
from rfprm_runtime.scores.bounds import unit_scale
from rfprm_runtime.traces.prompts import question_of_prompt
from rfprm_runtime.traces.tally import note_single_steps
from rfprm_runtime.types import Trajectory, TrajectoryScore

_logger = logging.getLogger(__name__)
ScoreAll = Callable[[Sequence[Trajectory | RfprmError]], list[TrajectoryScore | RfprmError]]
"""A score or an error for each item; an error passed in is its own result."""
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class CompletionReward:
    """The reward of one completion, and what it was computed from."""

    reward: float | None
    """Eq. 12; None if the completion cannot be scored."""
    process: float | None = None
    outcome: float | None = None
    score: TrajectoryScore | None = None
    error: RfprmError | None = None
    trajectory: Trajectory | None = None
    """What was scored; None if the completion cannot be scored."""

    @property
    def num_steps(self) -> int | None:
        """Of its thinking, scored or not; None if the completion cannot be scored."""
        return None if self.trajectory is None else len(self.trajectory.steps)


def completion_rewards(
    prompts: Sequence[Any],
    completions: Sequence[str | RfprmError],
    outcomes: Sequence[Outcome] | None,
    settings: RewardSettings,
    *,
    score_all: ScoreAll | None = None,
) -> list[CompletionReward]:
    """One reward per completion, in order.

    ``completions`` [N] are texts (:func:`~rfprm_runtime.traces.prompts.text_after`), or errors in
    place of those that cannot be read. ``outcomes`` [N] come from :func:`judge_answers` or
    elsewhere, None where unknown; without them the reward is the process reward alone. A completion
    without steps or with too many tokens gets an error in place of a reward; problems with
    settings, files or the machine raise. Raises ``ValueError`` if the numbers of prompts,
    completions and outcomes differ, and as :meth:`RewardSettings.check_mixing` does.
    """
    if outcomes is not None:
        settings.check_mixing()
    count = len(completions)
    check_one_for_each("prompts", prompts, count, "completions")
    found = [None] * count if outcomes is None else [*map(_as_float, outcomes)]
    check_one_for_each("outcomes", found, count, "completions")
    trajectories = [
        _trajectory(prompt, text, settings)
        for prompt, text in zip(prompts, completions, strict=True)
    ]
    note_single_steps(trajectories, settings.split)
    beta = 1.0 if outcomes is None else settings.beta
    scores = (score_all or partial(_score_now, settings))(trajectories)
    return [
        _reward(trajectory, score, outcome, beta, settings)
        for trajectory, score, outcome in zip(trajectories, scores, found, strict=True)
    ]


def _as_float(outcome: Outcome) -> Outcome:
    """Outcomes from elsewhere may be numpy or torch numbers."""
    return None if outcome is None else float(outcome)


def _trajectory(
    prompt: Any, text: str | RfprmError, settings: RewardSettings
) -> Trajectory | RfprmError:
    if isinstance(text, RfprmError):
        return text
    try:
        return Trajectory.from_text(question_of_prompt(prompt), text, split=settings.split)
    except InvalidTrajectoryError as error:
        return error


def _reward(
    trajectory: Trajectory | RfprmError,
    score: TrajectoryScore | RfprmError,
    outcome: Outcome,
    beta: float,
    settings: RewardSettings,
) -> CompletionReward:
    if not isinstance(score, TrajectoryScore):
        return CompletionReward(None, outcome=outcome, error=score)
    assert isinstance(trajectory, Trajectory)  # it has a score
    process = _process_reward(score, settings)
    mixed = float(mixed_reward(outcome, process, beta))
    if math.isnan(mixed):
        error = InvalidTrajectoryError(
            "could not tell whether the answer is right: there is no target, or it is too long or "
            "too large to compare"
        )
        return CompletionReward(None, process, outcome, score, error, trajectory)
    return CompletionReward(mixed, process, outcome, score, None, trajectory)


def _process_reward(score: TrajectoryScore, settings: RewardSettings) -> float:
    process = aggregate(score, settings.process)
    if callable(settings.process) or not settings.unit_scale:
        return process
    bounds = value_bounds(shared_scorer(settings).manifest, settings.process)
    return float(unit_scale(process, bounds))


def unit_score(score: TrajectoryScore, settings: RewardSettings) -> float:
    """A score in [0, 1], whatever the PRM's are: the mean of the step scores, or without any the
    trajectory score."""
    how: Aggregation = "mean" if len(score.step_scores) else "trajectory"
    bounds = value_bounds(shared_scorer(settings).manifest, how)
    return float(unit_scale(aggregate(score, how), bounds))


def judge_answers(
    completions: Sequence[str | RfprmError], targets: Sequence[Any], settings: RewardSettings
) -> list[Outcome]:
    """1 for each completion whose final answer means the same as its target, else 0.

    A target may be text, a number, a solution, or a list or mapping of acceptable answers
    (:func:`~rfprm_runtime.answers.references.acceptable_answers`). A completion that gives no
    answer, gives one that is not compared within the call's ``answer_budget``, or was cut off while
    thinking, is wrong. The outcome is None if the completion cannot be read, there is no target
    (:func:`is_answer`), or the target is too long or too large to compare.
    Raises :class:`MissingExtraError` if math-verify is not installed and ``ValueError`` if the
    numbers of completions and targets differ.
    """
    check_one_for_each("right answers", targets, len(completions), "completions")
    return judge_completions(
        completions,
        targets,
        shared_checker(settings),
        rules=settings.answer_rules,
        budget=settings.answer_budget,
    )


def is_answer(target: Any) -> bool:
    """Whether there is an answer to compare with: not None, NaN or blank."""
    return bool(acceptable_answers(target))


def shared_checker(settings: RewardSettings) -> AnswerChecker:
    """This process's comparisons of answers for these settings, with the count of those that the
    time did not suffice for. Raises :class:`MissingExtraError` without math-verify."""
    rules = settings.answer_rules
    return once_per_process(
        ("answers", settings.answer_timeout, rules),
        lambda: AnswerChecker(timeout=settings.answer_timeout, rules=rules),
    )


def shared_scorer(settings: RewardSettings) -> Scorer:
    """This process's scorer for these settings, loaded on the first call from any thread."""
    options: dict[str, Any] = {}
    if settings.num_threads is not None:  # not every backend has this option
        options["num_threads"] = settings.num_threads
    return once_per_process(
        (
            *("scorer", settings.artifact, settings.backend),
            *(settings.num_threads, settings.score_prefixes),
        ),
        lambda: Scorer.load(
            settings.artifact,
            backend=settings.backend,
            score_prefixes=settings.score_prefixes,
            **options,
        ),
    )


def shared_batcher(settings: RewardSettings) -> MicroBatcher:
    """The batcher over :func:`shared_scorer`, for callers with one trajectory each."""
    scorer = shared_scorer(settings)
    max_batch, max_wait_ms, overflow = settings.max_batch, settings.max_wait_ms, settings.overflow
    return once_per_process(
        ("batcher", id(scorer), max_batch, max_wait_ms, overflow),
        lambda: MicroBatcher(
            scorer, max_batch=max_batch, max_wait_ms=max_wait_ms, overflow=overflow
        ),
    )


def score_in_common(
    settings: RewardSettings, trajectories: Sequence[Trajectory | RfprmError]
) -> list[TrajectoryScore | RfprmError]:
    """Score in shared batches with what other threads ask for at the same time."""
    return shared_batcher(settings).score_all(trajectories)


def _score_now(
    settings: RewardSettings, trajectories: Sequence[Trajectory | RfprmError]
) -> list[TrajectoryScore | RfprmError]:
    return shared_scorer(settings).score_batch(
        trajectories, overflow=settings.overflow, on_error="return"
    )


def say_once(message: str) -> None:
    """Log which fields completions are read from, once in a process."""
    once_per_process(("said", message), lambda: _logger.info("%s", message))


_opened: dict[tuple[Any, ...], Any] = {}
_opening: dict[int, threading.Lock] = {}  # by process: another thread may hold it during a fork


def once_per_process(key: tuple[Any, ...], open_it: Callable[[], Opened]) -> Opened:
    """What ``open_it`` returned for ``key`` the first time in this process.

    The process is part of the key because scorers have threads, which do not survive a fork. An
    interrupt ends the wait, not the opening: the next call finds it done.
    """
    key = (os.getpid(), *key)
    if key not in _opened:
        return uninterrupted(lambda: _open_once(key, open_it))
    return _opened[key]  # type: ignore[no-any-return]


def _open_once(key: tuple[Any, ...], open_it: Callable[[], Opened]) -> Opened:
    with _opening.setdefault(os.getpid(), threading.Lock()):
        if key not in _opened:
            _opened[key] = open_it()
        return _opened[key]  # type: ignore[no-any-return]
