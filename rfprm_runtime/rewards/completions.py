"""What the adapters share: questions and completions in, rewards of Eq. 12 out.

Knows scorers and answers, but no RL stack.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.references import acceptable_answers
from rfprm_runtime.answers.rules import AnswerRules, BoxRule, FormatRule, PercentRule
from rfprm_runtime.artifact.manifest import MANIFEST_NAME, read_manifest
from rfprm_runtime.errors import (
    InvalidArgumentError,
    InvalidTrajectoryError,
    RfprmError,
)
from rfprm_runtime.ground.arguments import (
    check_choice,
    check_flag,
    check_not_negative,
    check_one_for_each,
    check_positive,
    check_whole,
)
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ground.running import uninterrupted
from rfprm_runtime.hub.artifacts import find_artifact
from rfprm_runtime.rewards.advantages import DEFAULT_BETA, mixed_reward, unit_reward
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from rfprm_runtime.rewards.outcomes import Outcome as Outcome
from rfprm_runtime.rewards.outcomes import judge_completions
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.aggregation import Aggregation, aggregate, check_aggregation
from rfprm_runtime.traces.prompts import question_of_prompt
from rfprm_runtime.traces.tally import note_single_steps
from rfprm_runtime.types import Overflow, Trajectory, TrajectoryScore

_logger = logging.getLogger(__name__)
ScoreAll = Callable[[Sequence[Trajectory | RfprmError]], list[TrajectoryScore | RfprmError]]
"""A score or an error for each item; an error passed in is its own result."""
Opened = TypeVar("Opened")


@dataclass(frozen=True)
class RewardSettings:
    """How completions are scored. Can be pickled; equal settings share a scorer within a process.

    Raises ``ValueError`` for an invalid setting and :class:`ArtifactError` if the folder holds no
    artifact. Unpickling checks nothing: it may happen on another machine.
    """

    artifact: str
    beta: float = DEFAULT_BETA
    """Weight of the process reward (Eq. 12); without outcomes it is 1."""
    process: Aggregation | Callable[[TrajectoryScore], float] = "reward"
    """r̂: Eq. 11 or another aggregation; writing more easy steps cannot raise ``min``."""
    unit_scale: bool = False
    """Whether to divide Eq. 11 by its largest value, 1 + α, before mixing."""
    split: SplitRule = "blank_lines"
    overflow: Overflow = "error"
    backend: str = "auto"
    num_threads: int | None = None
    """Cores each process scores with; None for all of them."""
    answer_timeout: float = 5.0
    """Seconds one comparison of answers may take."""
    answer_budget: float = 5.0
    """Seconds all comparisons of one call may take together; what is undecided then is wrong."""
    answer_format: FormatRule = "any"
    answer_boxes: BoxRule = "list"
    answer_percent: PercentRule = "either"
    answer_tolerance: float = 0.0
    """The last four are those of :class:`~rfprm_runtime.answers.rules.AnswerRules`."""
    max_batch: int = 64
    max_wait_ms: float = 5.0
    """The last two are for stacks that ask for one completion per call."""

    def __post_init__(self) -> None:
        if not self.artifact:
            raise InvalidArgumentError(
                "no artifact: pass artifact=FOLDER (one that rfprm export wrote), or set "
                "RFPRM_ARTIFACT"
            )
        if not Path(self.artifact, MANIFEST_NAME).is_file():
            read_manifest(_folder_of(self.artifact))  # says what is there instead
        # Fail now, not at the first training step. The manifest is read only if needed, because
        # verl builds settings for every sample.
        mixed_reward(0.0, 0.0, self.beta)
        by_trajectory = self.process == "trajectory"
        manifest = read_manifest(_folder_of(self.artifact)) if by_trajectory else None
        check_aggregation("process", self.process, manifest)
        check_choice("split", self.split, get_args(SplitRule))
        check_choice("overflow", self.overflow, get_args(Overflow))
        check_flag("unit_scale", self.unit_scale)
        check_positive("answer_timeout", self.answer_timeout, "seconds")
        check_positive("answer_budget", self.answer_budget, "seconds")
        _ = self.answer_rules  # checks them
        check_whole("max_batch", self.max_batch)
        check_not_negative("max_wait_ms", self.max_wait_ms)
        if self.num_threads is not None:
            check_whole("num_threads", self.num_threads, more=", or None for all cores")
        if self.unit_scale and callable(self.process):
            raise InvalidArgumentError(
                "unit_scale only knows the range of named aggregations; have the function return "
                "a number in [0, 1] and leave unit_scale out"
            )

    @property
    def answer_rules(self) -> AnswerRules:
        """How answers are found and compared."""
        return AnswerRules(
            percent=self.answer_percent,
            tolerance=self.answer_tolerance,
            boxes=self.answer_boxes,
            format=self.answer_format,
        )

    @classmethod
    def build(
        cls, artifact: str, settings: Mapping[str, Any], *, adapters_own: Sequence[str]
    ) -> RewardSettings:
        """Settings from an adapter's keyword arguments. Raises as the constructor does, and
        ``ValueError`` for an unknown one, listing the known ones and ``adapters_own``."""
        known = [field.name for field in fields(cls) if field.name != "artifact"]
        for name in settings:
            if name not in known:
                raise InvalidArgumentError(
                    f"unknown setting {name!r}, expected some of {[*adapters_own, *known]}"
                )
        return cls(artifact, **settings)


@cache
def _folder_of(artifact: str) -> Path:
    """Where an artifact is. The Hub is asked once a process, not for every sample."""
    return find_artifact(artifact)


@dataclass(frozen=True)
class CompletionReward:
    """The reward of one completion, and what it was computed from."""

    reward: float | None
    """Eq. 12; None if the completion cannot be scored."""
    process: float | None = None
    outcome: float | None = None
    score: TrajectoryScore | None = None
    error: RfprmError | None = None


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
    completions and outcomes differ.
    """
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
        _reward(score, outcome, beta, settings)
        for score, outcome in zip(scores, found, strict=True)
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
    score: TrajectoryScore | RfprmError, outcome: Outcome, beta: float, settings: RewardSettings
) -> CompletionReward:
    if not isinstance(score, TrajectoryScore):
        return CompletionReward(None, outcome=outcome, error=score)
    process = _process_reward(score, settings)
    mixed = float(mixed_reward(outcome, process, beta))
    if math.isnan(mixed):
        error = InvalidTrajectoryError(
            "could not tell whether the answer is right: there is no target, or it is too long or "
            "too large to compare"
        )
        return CompletionReward(None, process, outcome, score, error)
    return CompletionReward(mixed, process, outcome, score)


def _process_reward(score: TrajectoryScore, settings: RewardSettings) -> float:
    process = aggregate(score, settings.process)
    if not settings.unit_scale or settings.process != "reward":
        return process
    has_readout = score.trajectory_score is not None
    alpha = shared_scorer(settings).manifest.alpha if has_readout else 0.0
    return float(unit_reward(process, alpha))


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
        ("scorer", settings.artifact, settings.backend, settings.num_threads),
        lambda: Scorer.load(settings.artifact, backend=settings.backend, **options),
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
