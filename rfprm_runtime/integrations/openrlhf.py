"""Process rewards for OpenRLHF: pass ``--reward.remote_url`` a .py file of two lines:

    from rfprm_runtime.integrations.openrlhf import process_reward
    reward_func = process_reward("artifacts/…", beta=0.75)

Adapts to OpenRLHF's ``reward_func``, nothing else. This file works as such a file too, with the
artifact named by the environment variable RFPRM_ARTIFACT.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError, InvalidTrajectoryError, MissingExtraError
from rfprm_runtime.ground.arguments import check_flag, check_one_for_each
from rfprm_runtime.rewards.completions import (
    CompletionReward,
    RewardSettings,
    completion_rewards,
    is_answer,
    judge_answers,
    say_once,
    score_in_common,
    unit_score,
)
from rfprm_runtime.traces.prompts import response_after, text_after

logger = logging.getLogger(__name__)


def process_reward(
    artifact: str, *, outcome: bool = True, unscorable: float | None = None, **settings: Any
) -> Callable[..., dict[str, Any]]:
    """A ``reward_func(queries, prompts, labels)`` that returns Eq. 12 with the PRM of ``artifact``.

    A query is the prompt, chat template included, followed by the response. The response is what
    follows the prompt, less trailing end tokens
    (:data:`~rfprm_runtime.traces.templates.END_TOKENS`); the question is the last thing the user
    says in the prompt.
    ``outcome``: with True, the default, labels are right answers, which are compared with the final
    answers of responses (extra ``math``); with False, the reward is the process reward alone.
    ``unscorable``: the reward of responses that cannot be scored, which log a warning, since
    OpenRLHF has no missing reward; by default the lowest there can be, which is 0.0 for
    probabilities. ``settings``: the other fields of
    :class:`~rfprm_runtime.rewards.settings.RewardSettings`.

    Raises ``ValueError`` for an unknown or invalid setting and :class:`ArtifactError` if the folder
    holds no artifact.
    """
    own = ("outcome", "unscorable")
    chosen = RewardSettings.build(str(artifact or ""), settings, adapters_own=own)
    check_flag("outcome", outcome)
    if outcome:
        chosen.check_mixing()
    lowest = chosen.unscorable_reward(unscorable, with_outcome=outcome)
    return partial(_reward_func, chosen, outcome, lowest)


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any
) -> dict[str, Any]:
    """:func:`process_reward` with its defaults and the artifact that RFPRM_ARTIFACT names."""
    chosen = process_reward(os.environ.get("RFPRM_ARTIFACT", ""))
    return chosen(queries, prompts, labels)


def _reward_func(
    settings: RewardSettings,
    outcome: bool,
    unscorable: float,
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[Any],
    **_: Any,
) -> dict[str, Any]:
    """``rewards`` and ``scores``, float32 [N], and ``extra_logs``, a dict of the same.

    ``scores`` lie in [0, 1], as OpenRLHF's dynamic filtering expects: the outcomes, or without them
    :func:`~rfprm_runtime.rewards.completions.unit_score`.
    """
    try:
        rewards = _rewards(settings, outcome, queries, prompts, labels)
    except Exception:
        # OpenRLHF logs an error of a reward function as mere information and carries on.
        logger.exception("the process reward failed")
        raise
    for reward in rewards:
        if reward.error is not None:
            logger.warning(
                "a response cannot be scored and gets the reward %s: %s", unscorable, reward.error
            )
    mixed = [unscorable if x.reward is None else x.reward for x in rewards]
    steps = [0.0 if x.score is None else unit_score(x.score, settings) for x in rewards]
    process = [math.nan if x.process is None else x.process for x in rewards]
    extra = {"process_reward": process, "scored": [float(x.reward is not None) for x in rewards]}
    scores = [x.outcome or 0.0 for x in rewards] if outcome else steps
    return {
        "rewards": _tensor(mixed),
        "scores": _tensor(scores),
        "extra_logs": {name: _tensor(values) for name, values in extra.items()},
    }


def _rewards(
    settings: RewardSettings,
    outcome: bool,
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[Any],
) -> list[CompletionReward]:
    check_one_for_each("prompts", prompts, len(queries), "queries")
    say_once(
        "read question from 'prompts', text from 'queries' behind the prompt, "
        f"right answer from {'labels' if outcome else None!r}"
    )
    responses = [_response(query, prompt) for query, prompt in zip(queries, prompts, strict=True)]
    if outcome and not all(map(is_answer, labels)):
        raise InvalidArgumentError(
            f"labels are {list(labels)!r}, expected right answers (--data.label_key); pass "
            "outcome=False to train on the process reward alone"
        )
    outcomes = judge_answers(responses, labels, settings) if outcome else None
    return completion_rewards(
        prompts, responses, outcomes, settings, score_all=partial(score_in_common, settings)
    )


def _response(query: str, prompt: str) -> str | InvalidTrajectoryError:
    """The response, or why it cannot be told from the prompt."""
    try:
        return text_after(prompt, response_after(query, prompt))
    except InvalidTrajectoryError as error:
        return error


def _tensor(values: Sequence[float]) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "train", "answering OpenRLHF") from None
    return torch.tensor(values, dtype=torch.float32)
