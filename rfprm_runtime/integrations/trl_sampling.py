"""Oversampling in TRL's GRPOTrainer: sample many completions, score them, update on a few.

sample → score → keep → hand over what was scored. Knows TRL's reward functions; knows no PRM.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_choice, check_one_for_each, check_whole, shown
from rfprm_runtime.integrations.trl_generation import (
    Samples,
    check_generates,
    completions_of,
    groups_of,
    sample,
)
from rfprm_runtime.integrations.trl_rows import RowsByPrompt
from rfprm_runtime.integrations.trl_sums import (
    RewardFunction,
    check_names,
    is_async,
    name_of,
    take_marks,
    without_unknown,
)
from rfprm_runtime.rewards.advantages import FloatArray
from rfprm_runtime.rewards.down_sampling import Indices, Keep, down_sample


@dataclass
class _Scored:
    """What one reward function said of completions."""

    rewards: FloatArray
    """[N], NaN where unknown."""
    metrics: list[tuple[str, float]] = field(default_factory=list)
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Columns of the completions table, [N] each."""

    def take(self, kept: Indices) -> _Scored:
        """The same of some of the completions; metrics stay those of all."""
        extra = {name: [values[i] for i in kept] for name, values in self.extra.items()}
        return _Scored(self.rewards[kept], self.metrics, extra)


class Oversampling:
    """Samples ``times`` as many completions as the trainer updates on, and chooses among them.

        sampling = Oversampling(process_reward("artifacts/…", outcome="answer"), times=4)
        GRPOTrainer(…, rollout_func=sampling.rollout, reward_funcs=sampling.rewards)

    For each question ``times * num_generations`` completions are sampled and scored once.
    :func:`~rfprm_runtime.rewards.down_sample` keeps ``num_generations`` of them, which TRL trains
    on; it computes their advantages from the kept ones alone. Evaluation samples as usual.
    ``max_samples``: how many completions are sampled at a time, if memory is short; never fewer
    than the trainer asks for.

    The sum of ``rewards``, weighted by the trainer's ``reward_weights``, decides. ``keep`` and
    ``right_share``: see :func:`~rfprm_runtime.rewards.down_sample`. ``balanced`` takes outcomes
    from the first function that logs a column ``outcome``, as ``process_reward`` with outcomes
    does.

    Metrics beside those of the functions, which are of all sampled completions:
    ``oversampling/reward_sampled``, ``…/reward_kept`` (means), ``…/spread_sampled`` and
    ``…/spread_kept`` (mean standard deviation in a group).

    Raises ``ValueError`` for an unknown rule, ``times`` below 1, and anything but functions. Not
    for trainers with tools or environments: completions would be chosen before they are complete.
    """

    def __init__(
        self,
        rewards: RewardFunction | Sequence[RewardFunction],
        *,
        times: int,
        keep: Keep = "max_variance",
        right_share: float = 0.5,
        max_samples: int | None = None,
    ) -> None:
        functions = [rewards] if callable(rewards) else list(rewards)
        for function in functions:
            if not callable(function) or hasattr(function, "forward"):  # a torch module
                raise InvalidArgumentError(
                    f"rewards holds {shown(function)}, expected reward functions"
                )
        check_whole("times", times)
        check_choice("keep", keep, get_args(Keep))
        if max_samples is not None:
            check_whole("max_samples", max_samples)
        self._functions, self._times, self._max_samples = functions, times, max_samples
        self._keep, self._right_share = keep, right_share
        self._rows = RowsByPrompt()
        self._kept_ids: list[list[int]] = []
        self._kept: list[_Scored] = []
        self.rewards: list[RewardFunction] = [
            _KeptReward(self, index, function) for index, function in enumerate(functions)
        ]
        """For ``reward_funcs``: the functions, which do not score again what is kept."""

    def rollout(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """TRL's ``rollout_func``: a completion for each of ``prompts`` [N], of which each question
        has several in a row. Raises ``RuntimeError`` in a trainer that it cannot serve."""
        check_generates(trainer)
        if not trainer.model.training:
            return sample(prompts, trainer).as_rollout()
        groups = list(groups_of(prompts, trainer.num_generations))
        in_turn = sample(prompts, trainer, times=self._times, max_samples=self._max_samples)
        turns = range(self._times)
        by_group = in_turn.take([t * len(prompts) + i for g in groups for t in turns for i in g])
        scored = self._score(by_group, trainer)
        total = _total(scored, self.rewards, trainer)
        kept = self._choose(total, _outcomes(scored), [len(group) for group in groups])
        self._kept_ids = [by_group.completion_ids[i] for i in kept]
        self._kept = [one.take(kept) for one in scored]
        self._kept[0].metrics += _metrics(total, kept, [len(group) for group in groups])
        return by_group.take(kept.tolist()).as_rollout()

    def kept(self, index: int, completion_ids: Any) -> _Scored | None:
        """What function ``index`` said of the kept completions, if they are these."""
        return self._kept[index] if self._kept and completion_ids == self._kept_ids else None

    def _score(self, samples: Samples, trainer: Any) -> list[_Scored]:
        check_names(self._functions)
        inputs = {
            "prompts": samples.prompts,
            "completions": completions_of(samples, trainer),
            "completion_ids": samples.completion_ids,
            "trainer_state": trainer.state,
            **self._rows.columns(samples.prompts, trainer.train_dataset),
        }
        return [_score(function, inputs) for function in self._functions]

    def _choose(
        self, total: FloatArray, outcomes: list[Any] | None, sizes: Sequence[int]
    ) -> Indices:
        kept, start = [], 0
        for size in sizes:
            group = slice(start, start + size * self._times)
            chosen = down_sample(
                total[group],
                size,
                keep=self._keep,
                outcomes=None if outcomes is None else outcomes[group],
                right_share=self._right_share,
            )
            kept.append(start + chosen)
            start = group.stop
        return np.concatenate(kept)


class _KeptReward:
    """A reward function that knows what it said of the kept completions."""

    def __init__(self, sampling: Oversampling, index: int, function: RewardFunction) -> None:
        self._sampling, self._index, self._function = sampling, index, function
        take_marks(self, function)

    @property
    def __name__(self) -> str:
        return name_of(self._function)

    def __call__(self, *, completion_ids: Any = None, **columns: Any) -> Any:
        found = self._sampling.kept(self._index, completion_ids)
        if found is None:
            return _run(self._function, {**columns, "completion_ids": completion_ids})
        for name, value in found.metrics:
            columns["log_metric"](name, value)
        for name, values in found.extra.items():
            columns["log_extra"](name, values)
        return [None if np.isnan(reward) else float(reward) for reward in found.rewards]


def _score(function: RewardFunction, inputs: dict[str, Any]) -> _Scored:
    metrics: list[tuple[str, float]] = []
    extra: dict[str, list[Any]] = {}

    def log_metric(name: str, value: float) -> None:
        metrics.append((name, value))

    def log_extra(name: str, values: Sequence[Any]) -> None:
        extra[name] = list(values)

    found = _run(function, {**inputs, "log_metric": log_metric, "log_extra": log_extra})
    check_one_for_each(
        f"rewards of {name_of(function)}", found, len(inputs["completions"]), "completions"
    )
    return _Scored(np.asarray(found, dtype=np.float64), metrics, extra)


def _run(function: RewardFunction, columns: dict[str, Any]) -> Any:
    if not is_async(function):
        return function(**columns)
    # In a thread of its own: a notebook has an event loop already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(function(**columns))).result()


def _total(scored: Sequence[_Scored], functions: Sequence[Any], trainer: Any) -> FloatArray:
    """The weighted sum as the trainer computes it, NaN where it excludes a completion, [N]."""
    weights = np.asarray([float(weight) for weight in trainer.reward_weights])
    check_one_for_each("reward_weights", weights, len(functions), "functions of the oversampling")
    table = without_unknown(np.stack([one.rewards for one in scored], axis=1), functions, weights)
    total = np.nansum(table * weights, axis=1)
    return np.where(np.isnan(table).all(axis=1), np.nan, total)


def _outcomes(scored: Sequence[_Scored]) -> list[Any] | None:
    columns = (
        values
        for one in scored
        for name, values in one.extra.items()
        if name.rpartition("/")[2] == "outcome" and any(value is not None for value in values)
    )
    return next(columns, None)


def _metrics(total: FloatArray, kept: Indices, sizes: Sequence[int]) -> list[tuple[str, float]]:
    """Means and spreads before and after; none if nothing is known."""
    times = len(total) // len(kept)
    found = []
    for name, values, repeated in (("sampled", total, times), ("kept", total[kept], 1)):
        known = values[~np.isnan(values)]
        if not len(known):
            continue
        found.append((f"oversampling/reward_{name}", float(known.mean())))
        edges = np.cumsum([size * repeated for size in sizes])[:-1]
        parts = [part[~np.isnan(part)] for part in np.split(values, edges)]
        spreads = [float(part.std()) for part in parts if len(part)]
        found.append((f"oversampling/spread_{name}", sum(spreads) / len(spreads)))
    return found
