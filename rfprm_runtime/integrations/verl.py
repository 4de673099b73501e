"""Process rewards for verl: ``reward.custom_reward_function.path=pkg://rfprm_runtime.integrations.verl``.

Adapts to verl's ``compute_score``, nothing else. verl calls it with one sample at a time from many
threads; samples in flight at the same time are scored in shared batches.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_flag, check_one_for_each
from rfprm_runtime.ground.running import Outcome, report
from rfprm_runtime.ground.workers import Workers
from rfprm_runtime.rewards.completions import (
    CompletionReward,
    RewardSettings,
    completion_rewards,
    is_answer,
    judge_answers,
    once_per_process,
    say_once,
    score_in_common,
)
from rfprm_runtime.traces.prompts import text_after

logger = logging.getLogger(__name__)
ARTIFACT_VARIABLE = "RFPRM_ARTIFACT"
Result = TypeVar("Result")
_NUM_WAITING = 256  # threads that only wait for a score


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """Score one sample: ``score`` is Eq. 12, next to its parts. Any thread may call it.

    The question is ``extra_info["question"]``. verl's GSM8K preparation puts it there; other
    preparations need a line for it, or ``question_key`` names another field.
    ``reward_kwargs`` (``+reward.custom_reward_function.reward_kwargs.NAME=VALUE``): ``artifact``
    (or the environment variable RFPRM_ARTIFACT), ``question_key``, ``outcome`` (default True; with
    False, the score is the process reward alone and the ground truth is ignored), ``unscorable``
    (the score of samples that cannot be scored; by default the lowest there can be, 0.0 for
    probabilities), and the other fields of
    :class:`~rfprm_runtime.rewards.settings.RewardSettings`.

    The keys are always ``score``, ``process``, ``num_steps``, ``scored`` and, with outcomes,
    ``acc``: verl needs the same keys for every sample and has no missing reward. A sample that
    cannot be scored has ``scored`` 0 and logs a warning.
    Raises ``ValueError`` if a setting, the question or the ground truth is missing or invalid, and
    :class:`ArtifactError` if the folder holds no artifact.
    """
    [found] = compute_score_batch(
        [data_source], [solution_str], [ground_truth], [extra_info], **reward_kwargs
    )
    return found


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **reward_kwargs: Any,
) -> dict[str, float]:
    """:func:`compute_score`, awaited (``custom_reward_function.name=compute_score_async``).

    verl calls it on an event loop, so the loop's default thread pool does not limit the batch size.
    """
    sample = partial(compute_score, data_source, solution_str, ground_truth, extra_info)
    workers = once_per_process(("verl",), lambda: Workers(_NUM_WAITING, "rfprm-verl"))
    return await _awaited(workers, partial(sample, **reward_kwargs))


async def _awaited(workers: Workers, call: Callable[[], Result]) -> Result:
    """What ``call`` returns or raises on one of the ``workers``."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        if not future.done():  # it may have been cancelled
            result, error = outcome
            future.set_result(result) if error is None else future.set_exception(error)

    def pass_on(outcome: Outcome) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, outcome)

    workers.post(partial(report, call, pass_on))
    return await future


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any] | None],
    **reward_kwargs: Any,
) -> list[dict[str, float]]:
    """Score many samples as :func:`compute_score` does one, for verl's ``BatchRewardManager``."""
    settings, own = _settings(reward_kwargs)
    count = len(solution_strs)
    for name, values in (
        ("data_sources", data_sources),
        ("ground_truths", ground_truths),
        ("extra_infos", extra_infos),
    ):
        check_one_for_each(name, values, count, "solution_strs")
    texts = [text_after("", solution) for solution in solution_strs]
    say_once(
        f"read question from extra_info[{own['question_key']!r}], text from 'solution_str', "
        f"right answer from {'ground_truth' if own['outcome'] else None!r}"
    )
    questions = [_question(extra_info, own["question_key"]) for extra_info in extra_infos]
    outcomes = None
    if own["outcome"]:
        _check_ground_truths(ground_truths, data_sources)
        outcomes = judge_answers(texts, ground_truths, settings)
    rewards = completion_rewards(
        questions, texts, outcomes, settings, score_all=partial(score_in_common, settings)
    )
    return [_as_verl_result(reward, own) for reward in rewards]


def _settings(reward_kwargs: dict[str, Any]) -> tuple[RewardSettings, dict[str, Any]]:
    """The reward's settings, and this adapter's own."""
    own: dict[str, Any] = {"question_key": "question", "outcome": True, "unscorable": None}
    # verl adds these two if it serves a reward model of its own.
    ignored = ("reward_router_address", "reward_model_tokenizer")
    given = {name: value for name, value in reward_kwargs.items() if name not in ignored}
    own.update({name: given.pop(name) for name in own if name in given})
    check_flag("outcome", own["outcome"])
    artifact = given.pop("artifact", os.environ.get(ARTIFACT_VARIABLE, ""))
    settings = RewardSettings.build(artifact, given, adapters_own=("artifact", *own))
    if own["outcome"]:
        settings.check_mixing()
    lowest = settings.unscorable_reward(own["unscorable"], with_outcome=own["outcome"])
    return settings, {**own, "unscorable": lowest}


def _question(extra_info: Mapping[str, Any] | None, key: str) -> Any:
    if not extra_info or key not in extra_info:
        raise InvalidArgumentError(
            f"extra_info has no {key!r}, it has {sorted(extra_info or ())}; a process reward needs "
            f"the question: put it into extra_info[{key!r}] when preparing the data, or name "
            "another field with question_key"
        )
    return extra_info[key]


def _check_ground_truths(ground_truths: Sequence[Any], data_sources: Sequence[str]) -> None:
    for ground_truth, data_source in zip(ground_truths, data_sources, strict=True):
        if not is_answer(ground_truth):
            raise InvalidArgumentError(
                f"a sample of {data_source} has no ground truth; pass "
                "reward_kwargs.outcome=False to train on the process reward alone"
            )


def _as_verl_result(reward: CompletionReward, own: Mapping[str, Any]) -> dict[str, float]:
    if reward.error is not None:
        logger.warning(
            "a completion cannot be scored and gets the score %s: %s",
            own["unscorable"],
            reward.error,
        )
    found = {
        "score": float(own["unscorable"]) if reward.reward is None else reward.reward,
        "process": reward.process or 0.0,
        "num_steps": float(reward.num_steps or 0),
        "scored": float(reward.reward is not None),
    }
    return {**found, "acc": reward.outcome or 0.0} if own["outcome"] else found
