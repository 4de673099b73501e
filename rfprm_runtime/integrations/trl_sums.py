"""What an unknown reward is worth where TRL adds up several reward functions: nothing.

TRL's sum skips what is unknown, which counts it as 0: a completion that the PRM cannot score would
be ranked by the other functions alone, and may come out ahead of those it can score. Knows TRL's
trainers and reward functions; knows no PRM.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import (
    check_finite,
    check_flag,
    check_one_for_each,
    shown,
)

_logger = logging.getLogger(__name__)
RewardFunction = Callable[..., Any]
_MARK = "unknown_excludes_completion"
_GUARDED = "excludes_unknown"
_TRAINERS = ("GRPOTrainer", "RLOOTrainer")
_METHOD = "_calculate_rewards"


class _Named:
    """A function under a name of its own. It pickles, unlike a closure."""

    def __init__(self, function: RewardFunction, name: str) -> None:
        self._function, self._name = function, name

    @property
    def __name__(self) -> str:
        # A trainer asks for it when it is made: the first that we hear of a trainer, and early
        # enough to guard the sums of its first batch.
        guard_trainers()
        return self._name

    def __call__(self, *arguments: Any, **columns: Any) -> Any:
        return self._function(*arguments, **columns)


class _NamedAsync(_Named):
    async def __call__(self, *arguments: Any, **columns: Any) -> Any:
        return await self._function(*arguments, **columns)

    # With these ``inspect.iscoroutinefunction`` takes an object for a function and looks into it.
    __code__ = __call__.__code__
    __defaults__ = None
    __kwdefaults__ = None


def bound(
    function: RewardFunction, arguments: tuple[Any, ...], *, name: str, metric_name: str
) -> RewardFunction:
    """``function`` with its first ``arguments``, which TRL logs as ``name``. A completion for which
    it returns None is unknown in every sum of a trainer. ``metric_name``: what the names of its
    metrics begin with."""
    kind = _NamedAsync if inspect.iscoroutinefunction(function) else _Named
    found: Any = functools.partial(kind(function, name), *arguments)
    # TRL looks inside a partial for its function's name; other code does not.
    found.__name__ = name
    setattr(found, _MARK, metric_name)
    return found  # type: ignore[no-any-return]


def check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidArgumentError(f"name is {shown(name)}, expected a name for metrics")


def is_marked(function: Any) -> bool:
    return hasattr(function, _MARK)


def metric_name_of(function: Any) -> str | None:
    """What the metrics of a process reward begin with; None for other functions."""
    found: str | None = getattr(function, _MARK, None)
    return found


def take_marks(function: Any, other: Any) -> None:
    """Treat ``function`` as ``other`` is treated."""
    if is_marked(other):
        setattr(function, _MARK, getattr(other, _MARK))


def check_names(functions: Sequence[Any]) -> None:
    """Refuse two process rewards of one name, whose metrics a trainer would mix up."""
    names = [getattr(function, _MARK) for function in functions if is_marked(function)]
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgumentError(
                f"{names.count(name)} reward functions are called {name!r}, so that their metrics "
                "would be mixed up; tell them apart, as in process_reward(…, name='…')"
            )


def guard_trainers() -> bool:
    """Have TRL's trainers exclude what a marked function does not know; False if they already do,
    or if TRL has not been imported.

    A reward function learns nothing about the others, so this is done where a trainer has the
    rewards of all of them. Trainers without marked functions work as before.
    """
    changed = [_guard(trainer) for trainer in map(_trainer_named, _TRAINERS) if trainer is not None]
    return any(changed)


def _trainer_named(name: str) -> Any:
    try:
        return getattr(sys.modules.get("trl"), name, None)  # TRL imports it now
    except (ImportError, RuntimeError):  # it cannot be used either
        return None


def _guard(trainer: Any) -> bool:
    calculate = getattr(trainer, _METHOD, None)
    if calculate is None or hasattr(calculate, _GUARDED):
        return False

    @functools.wraps(calculate)
    def calculate_rewards(self: Any, *args: Any, **kwargs: Any) -> Any:
        return without_unknown(
            calculate(self, *args, **kwargs), self.reward_funcs, self.reward_weights
        )

    setattr(calculate_rewards, _GUARDED, True)
    setattr(trainer, _METHOD, calculate_rewards)
    _logger.info(
        "%s now leaves completions without a process reward out of its sums", trainer.__name__
    )
    return True


def without_unknown(rewards: Any, functions: Sequence[Any], weights: Any) -> Any:
    """``rewards`` [N, F] (a tensor or an array), with NaN throughout the rows in which a marked
    function of weight other than 0 has NaN."""
    decisive = [
        index
        for index, function in enumerate(functions)
        if is_marked(function) and float(weights[index]) != 0.0
    ]
    if decisive:
        found = rewards[:, decisive]
        rewards[(found != found).any(1)] = math.nan
    return rewards


def summed_reward(
    functions: Sequence[RewardFunction],
    *,
    weights: Sequence[float] | None = None,
    name: str = "summed_reward",
    asynchronous: bool = False,
) -> RewardFunction:
    """One reward function: the weighted sum of several, None where any of them gives None or NaN.

    For trainers that add up rewards out of reach, such as TRL's AsyncGRPO, whose rewards are
    computed in another process. ``weights`` [F], by default 1 each. ``asynchronous``: an async
    function, required if any of ``functions`` is async. It can be pickled if they can.

    TRL logs it as ``name``, and the mean of each function as ``NAME/FUNCTION``. Raises
    ``ValueError`` for no functions, anything that is no function, weights that do not fit, and an
    async function without ``asynchronous``.
    """
    if not functions or not all(map(callable, functions)):
        came = [shown(function) for function in functions if not callable(function)]
        raise InvalidArgumentError(f"functions holds {came or 'none'}, expected reward functions")
    check_name(name)
    check_names(functions)
    check_flag("asynchronous", asynchronous)
    chosen = [1.0] * len(functions) if weights is None else list(weights)
    check_one_for_each("weights", chosen, len(functions), "functions")
    for weight in chosen:
        check_finite("a weight", weight)
    if not asynchronous and any(map(is_async, functions)):
        raise InvalidArgumentError(
            "one of the functions is async; pass asynchronous=True to await it"
        )
    function = summed_reward_function_async if asynchronous else summed_reward_function
    arguments = (tuple(functions), tuple(chosen), name)
    return bound(function, arguments, name=name, metric_name=name)


def summed_reward_function(
    functions: Sequence[RewardFunction], weights: Sequence[float], name: str, /, **columns: Any
) -> list[float | None]:
    """The sum for each completion, as TRL calls for it."""
    found = [function(**columns) for function in functions]
    return _sum(functions, weights, name, found, columns)


async def summed_reward_function_async(
    functions: Sequence[RewardFunction], weights: Sequence[float], name: str, /, **columns: Any
) -> list[float | None]:
    """The same; async functions run concurrently."""
    found = await asyncio.gather(*(_awaited(function, columns) for function in functions))
    return _sum(functions, weights, name, found, columns)


async def _awaited(function: RewardFunction, columns: dict[str, Any]) -> Any:
    found = function(**columns)
    return await found if inspect.isawaitable(found) else found


def _sum(
    functions: Sequence[RewardFunction],
    weights: Sequence[float],
    name: str,
    found: Sequence[Sequence[float | None]],
    columns: dict[str, Any],
) -> list[float | None]:
    count = len(columns["completions"])
    total = [0.0] * count
    for function, weight, rewards in zip(functions, weights, found, strict=True):
        part = name_of(function)
        check_one_for_each(f"rewards of {part}", rewards, count, "completions")
        numbers = [math.nan if reward is None else float(reward) for reward in rewards]
        known = [number for number in numbers if not math.isnan(number)]
        if known and "log_metric" in columns:
            columns["log_metric"](f"{name}/{part}", sum(known) / len(known))
        total = [so_far + weight * number for so_far, number in zip(total, numbers, strict=True)]
    return [None if math.isnan(number) else number for number in total]


def name_of(function: Any) -> str:
    """The name under which TRL logs a function."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def is_async(function: Any) -> bool:
    """Whether calling it gives something to await, as TRL decides it."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )
