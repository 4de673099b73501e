"""Several reward functions in one trainer: names, metrics, and what is unknown in a sum."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rfprm_runtime.integrations.trl import process_reward, summed_reward
from rfprm_runtime.integrations.trl_sums import is_async, name_of

QUESTION = "What is 6 times 7?"
TEXTS = ["6 * 7 = 42.\n\nThe answer is 42.", " ", "No."]
INPUTS: dict[str, Any] = {"prompts": [QUESTION] * 3, "completions": TEXTS}
NAN = float("nan")


class Trainer:
    """The part of TRL's trainers that sums rewards."""

    def __init__(self, functions: list[Callable[..., Any]], weights: list[float]) -> None:
        self.reward_funcs, self.reward_weights = functions, weights
        self.names = [name_of(function) for function in functions]
        self.metrics: dict[str, float] = {}
        self.columns: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value

    def log_extra(self, name: str, values: list[Any]) -> None:
        assert name not in self.columns
        self.columns[name] = values

    def _calculate_rewards(self, inputs: dict[str, Any]) -> np.ndarray:
        logs = {"log_metric": self.log_metric, "log_extra": self.log_extra}
        columns = [function(**inputs, **logs) for function in self.reward_funcs]
        return np.array(columns, dtype=np.float64).T


def ones(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)


async def twos(completions: list[str], **_: Any) -> list[float]:
    return [2.0] * len(completions)


def every_other(completions: list[str], **_: Any) -> list[float | None]:
    return [None if index % 2 else 1.0 for index in range(len(completions))]


@pytest.fixture
def trainer_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fresh class in TRL's place."""
    fresh = type("GRPOTrainer", (Trainer,), {})
    monkeypatch.setitem(sys.modules, "trl", SimpleNamespace(GRPOTrainer=fresh))
    return fresh


def test_a_completion_without_a_process_reward_is_unknown_to_all_functions(
    artifact: str, trainer_class: Any
) -> None:
    process = process_reward(artifact, backend="fake")
    rewards = trainer_class([ones, process], [1.0, 1.0])._calculate_rewards(INPUTS)
    assert np.isnan(rewards).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_a_sum_of_rewards_beside_others_is_unknown_to_them_too(trainer_class: Any) -> None:
    summed = summed_reward([ones, every_other])
    rewards = trainer_class([ones, summed], [1.0, 1.0])._calculate_rewards(INPUTS)
    assert np.isnan(rewards).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_a_process_reward_of_weight_0_excludes_nothing(artifact: str, trainer_class: Any) -> None:
    process = process_reward(artifact, backend="fake")
    rewards = trainer_class([ones, process], [1.0, 0.0])._calculate_rewards(INPUTS)
    assert np.isnan(rewards).tolist() == [[False] * 2, [False, True], [False] * 2]


def test_trainers_without_a_process_reward_work_as_before(
    artifact: str, trainer_class: Any
) -> None:
    name_of(process_reward(artifact, backend="fake"))  # guards the class
    rewards = trainer_class([ones, every_other], [1.0, 1.0])._calculate_rewards(INPUTS)
    assert np.isnan(rewards).tolist() == [[False] * 2, [False, True], [False] * 2]


def test_names_tell_two_process_rewards_apart(artifact: str, trainer_class: Any) -> None:
    one = process_reward(artifact, backend="fake")
    other = process_reward(artifact, backend="fake", name="lowest", process="min")
    trainer = trainer_class([one, other], [1.0, 1.0])
    trainer._calculate_rewards(INPUTS)
    assert trainer.names == ["process_reward_function", "lowest"]
    assert set(trainer.columns) == {"process", "outcome", "lowest/process", "lowest/outcome"}
    assert {"process_reward/process", "lowest/process", "lowest/unscorable"} <= set(trainer.metrics)


def test_two_process_rewards_of_one_name_are_refused(artifact: str, trainer_class: Any) -> None:
    functions = [process_reward(artifact, backend="fake", process=x) for x in ("min", "mean")]
    with pytest.raises(ValueError, match=r"2 reward functions are called 'process_reward'.*name="):
        trainer_class(functions, [1.0, 1.0])._calculate_rewards(INPUTS)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_named_function_pickles_and_stays_what_it_is(artifact: str, asynchronous: bool) -> None:
    function = process_reward(artifact, backend="fake", name="ours", asynchronous=asynchronous)
    again = pickle.loads(pickle.dumps(function))
    assert name_of(again) == again.__name__ == "ours"
    assert is_async(again) is asynchronous
    found = again(**INPUTS)
    found = asyncio.run(found) if asynchronous else found
    assert [reward is None for reward in found] == [False, True, False]


@pytest.mark.parametrize("name", ["", " ", 3])
def test_a_name_must_be_a_word(artifact: str, name: Any) -> None:
    with pytest.raises(ValueError, match="name is"):
        process_reward(artifact, name=name)


def test_a_summed_reward_is_none_where_any_part_is() -> None:
    metrics: dict[str, float] = {}
    function = pickle.loads(pickle.dumps(summed_reward([ones, every_other], weights=[0.5, 2.0])))
    assert function(**INPUTS, log_metric=metrics.__setitem__) == [2.5, None, 2.5]
    assert metrics == {"summed_reward/ones": 1.0, "summed_reward/every_other": 1.0}
    assert name_of(function) == "summed_reward"


def test_a_summed_reward_may_be_async() -> None:
    function = summed_reward([ones, twos], asynchronous=True)
    assert is_async(function)
    assert asyncio.run(function(**INPUTS)) == [3.0] * 3


@pytest.mark.parametrize(
    ("functions", "options", "message"),
    [
        ([], {}, "functions holds none, expected reward functions"),
        ([ones, "accuracy"], {}, r"functions holds \[\"'accuracy'\"\], expected"),
        ([ones], {"weights": [1.0, 2.0]}, "weights: got 2 values for 1 functions"),
        ([ones], {"weights": [NAN]}, "a weight is nan, expected a finite number"),
        ([ones, twos], {}, "pass asynchronous=True"),
        ([ones], {"name": ""}, "name is '', expected a name"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(functions: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summed_reward(functions, **options)


def test_a_summed_reward_needs_one_reward_a_completion() -> None:
    with pytest.raises(ValueError, match="rewards of <lambda>: got 1 values for 3 completions"):
        summed_reward([lambda **_: [1.0]])(**INPUTS)
