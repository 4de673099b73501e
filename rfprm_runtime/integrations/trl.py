"""Process rewards for TRL: ``GRPOTrainer(reward_funcs=process_reward("artifacts/…"))``.

Adapts to TRL's reward functions, nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Sequence
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_flag, check_one_for_each, shown
from rfprm_runtime.integrations.trl_sampling import Oversampling
from rfprm_runtime.integrations.trl_sums import (
    RewardFunction,
    bound,
    check_name,
    check_names,
    guard_trainers,
    summed_reward,
)
from rfprm_runtime.rewards.completions import (
    CompletionReward,
    Outcome,
    RewardSettings,
    completion_rewards,
    judge_answers,
    say_once,
    shared_checker,
    shared_scorer,
)
from rfprm_runtime.traces.prompts import text_after

__all__ = ["Oversampling", "process_reward", "summed_reward"]
logger = logging.getLogger(__name__)
_DEFAULT_NAME = "process_reward"


def process_reward(
    artifact: str,
    *,
    outcome: str | RewardFunction | None = None,
    question: str | None = None,
    name: str | None = None,
    asynchronous: bool = False,
    **settings: Any,
) -> RewardFunction:
    """A reward function for ``reward_funcs`` that returns Eq. 12 with the PRM of ``artifact``.

    ``outcome``: the data set's column of right answers, which are compared with the final answers
    of completions (extra ``math``); or another TRL reward function, such as
    ``trl.rewards.accuracy_reward``, whose rewards are the outcomes; or None, the default, for the
    process reward alone. ``question``: the column of questions; without it, the question is the
    last thing the user says in the prompt. ``settings``: the other fields of
    :class:`~rfprm_runtime.rewards.settings.RewardSettings`.

    ``name``: what TRL logs it as (``rewards/NAME/mean``), and what its metrics and columns begin
    with; required of all but one if a trainer has several. By default TRL logs
    ``process_reward_function`` (``…_async`` if ``asynchronous``), and metrics begin with
    ``process_reward``: ``process_reward/process``, ``…/outcome``, ``…/num_steps`` (means),
    ``…/unscorable`` (share) and ``…/seconds``. The completions table gets the columns ``process``
    and ``outcome``, or ``NAME/process`` and ``NAME/outcome``.

    A completion that cannot be scored gets the reward None and logs a warning. It has no effect on
    training: its advantage is 0, whatever other functions say of it (:mod:`.trl_sums` changes the
    sum of TRL's GRPOTrainer and RLOOTrainer so). It can be pickled, and loads the PRM on its first
    call in a process.

    Raises ``ValueError`` for a setting that is unknown, invalid or in conflict with another, and
    :class:`ArtifactError` if the folder holds no artifact.
    """
    own = ("outcome", "question", "name", "asynchronous")
    chosen = RewardSettings.build(str(artifact or ""), settings, adapters_own=own)
    if outcome is not None:
        chosen.check_mixing()
    if not (outcome is None or isinstance(outcome, str) or callable(outcome)):
        raise InvalidArgumentError(
            f"outcome is {shown(outcome)}, expected the name of a column with right answers, a "
            "reward function, or None for the process reward alone"
        )
    if not (question is None or isinstance(question, str)):
        raise InvalidArgumentError(
            f"question is {shown(question)}, expected the name of a column, or None"
        )
    if name is not None:
        check_name(name)
    check_flag("asynchronous", asynchronous)
    if inspect.iscoroutinefunction(outcome) and not asynchronous:
        raise InvalidArgumentError(
            "the outcome is an async function; pass asynchronous=True to await it"
        )
    function: Any = process_reward_function_async if asynchronous else process_reward_function
    # Bound by position, because a column of the data set may have any name.
    return bound(
        function,
        (chosen, outcome, question, name or _DEFAULT_NAME),
        name=name or function.__name__,
        metric_name=name or _DEFAULT_NAME,
    )


def process_reward_function(
    settings: RewardSettings,
    outcome: str | RewardFunction | None,
    question: str | None,
    name: str,
    /,
    *,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    **columns: Any,
) -> list[float | None]:
    """A reward or None for each completion, as TRL calls for it."""
    outcomes = None
    if callable(outcome):
        outcomes = outcome(prompts=prompts, completions=completions, **columns)
    return _rewards(settings, outcome, question, name, outcomes, prompts, completions, columns)


async def process_reward_function_async(
    settings: RewardSettings,
    outcome: str | RewardFunction | None,
    question: str | None,
    name: str,
    /,
    *,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    **columns: Any,
) -> list[float | None]:
    """The same, scored in a thread so that other reward functions can run meanwhile."""
    outcomes = None
    if callable(outcome):
        outcomes = outcome(prompts=prompts, completions=completions, **columns)
        outcomes = await outcomes if inspect.isawaitable(outcomes) else outcomes
    return await asyncio.to_thread(
        _rewards, settings, outcome, question, name, outcomes, prompts, completions, columns
    )


def _rewards(
    settings: RewardSettings,
    outcome: str | RewardFunction | None,
    question: str | None,
    name: str,
    outcomes: Sequence[Outcome] | None,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: dict[str, Any],
) -> list[float | None]:
    _check_trainer(columns.get("log_metric"))
    shared_scorer(settings)  # load it before the clock starts
    started = time.perf_counter()
    count = len(completions)
    check_one_for_each("prompts", prompts, count, "completions")
    texts = [text_after(p, completion) for p, completion in zip(prompts, completions, strict=True)]
    questions = _column(columns, question, "question", count) if question else prompts
    say_once(
        f"read question from {question or 'prompts'!r}, text from 'completions', "
        f"right answer from {outcome!r}"
    )
    undecided = 0
    if isinstance(outcome, str):
        checker = shared_checker(settings)
        undecided -= checker.num_undecided
        outcomes = judge_answers(texts, _column(columns, outcome, "outcome", count), settings)
        undecided += checker.num_undecided
    rewards = completion_rewards(questions, texts, outcomes, settings)
    _hand_over(rewards, columns.get("log_metric"), name)
    _report(rewards, columns, name, time.perf_counter() - started, undecided)
    return [reward.reward for reward in rewards]


def _column(columns: dict[str, Any], name: str, setting: str, count: int) -> Sequence[Any]:
    if name not in columns:
        known = sorted(
            set(columns) - {"trainer_state", "log_extra", "log_metric", "completion_ids"}
        )
        raise InvalidArgumentError(
            f"{setting}={name!r} is not a column of the data set, which has {known}"
        )
    values: Sequence[Any] = columns[name]
    check_one_for_each(f"the column {name!r}", values, count, "completions")
    return values


def _check_trainer(log_metric: Any) -> None:
    """Refuse two process rewards of one name in the trainer that calls, and guard its sum."""
    functions = getattr(getattr(log_metric, "__self__", None), "reward_funcs", ())
    check_names(functions)
    # The functions called earlier in this batch are out of reach by now.
    if guard_trainers() and len(functions) > 1:
        logger.warning(
            "this trainer never asked for the name of its reward function, so in this batch a "
            "completion that cannot be scored counts as 0 beside the other functions; pass them as "
            "one: summed_reward([…])"
        )


def _hand_over(rewards: Sequence[CompletionReward], log_metric: Any, name: str) -> None:
    """Give step scores to a trainer that uses them (:mod:`.trl_dense`)."""
    take = getattr(getattr(log_metric, "__self__", None), "take_process_rewards", None)
    if take is not None:
        take(name, rewards)


def _report(
    rewards: Sequence[CompletionReward],
    columns: dict[str, Any],
    name: str,
    seconds: float,
    undecided: int,
) -> None:
    """Warn of completions without a reward, and pass metrics to TRL if it takes them."""
    errors = [reward.error for reward in rewards if reward.error is not None]
    if errors:
        logger.warning(
            "%d of %d completions cannot be scored and get the reward None; the first: %s",
            len(errors),
            len(rewards),
            errors[0],
        )
    log_metric, log_extra = columns.get("log_metric"), columns.get("log_extra")
    if log_metric is not None:
        for metric, value in _metrics(rewards, seconds, undecided).items():
            log_metric(f"{name}/{metric}", value)
    if log_extra is not None:
        prefix = "" if name == _DEFAULT_NAME else f"{name}/"
        log_extra(f"{prefix}process", [reward.process for reward in rewards])
        log_extra(f"{prefix}outcome", [reward.outcome for reward in rewards])


def _metrics(
    rewards: Sequence[CompletionReward], seconds: float, undecided: int
) -> dict[str, float]:
    values: dict[str, list[float]] = {
        "process": [x.process for x in rewards if x.process is not None],
        "outcome": [x.outcome for x in rewards if x.outcome is not None],
        "num_steps": [x.num_steps for x in rewards if x.num_steps is not None],
        "unscorable": [x.reward is None for x in rewards],
        "seconds": [seconds],
        "undecided": [undecided],
    }
    return {name: sum(found) / len(found) for name, found in values.items() if found}
