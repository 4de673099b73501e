"""Choosing which samples to train on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.rewards import down_sample

_REWARDS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.7, -2.0]), min_size=1, max_size=8)


@given(rewards=_REWARDS, data=st.data())
def test_max_variance_finds_what_trying_all_choices_finds(rewards: list[float], data: Any) -> None:
    num_kept = data.draw(st.integers(1, len(rewards)))
    kept = down_sample(rewards, num_kept)
    assert len(set(kept.tolist())) == num_kept
    best = max(np.var(choice) for choice in itertools.combinations(rewards, num_kept))
    assert np.var(np.array(rewards)[kept]) == pytest.approx(best)


def test_groups_are_chosen_from_one_by_one() -> None:
    rewards = [0.1, 0.9, 0.5, 0.6, 0.2, 0.2, 0.3, 0.4]
    assert down_sample(rewards, 2, group_size=4).tolist() == [0, 1, 5, 7]
    assert down_sample(rewards, 2, group_size=4, keep="top").tolist() == [1, 3, 6, 7]


@pytest.mark.parametrize(
    ("outcomes", "right_share", "kept"),
    [
        ([1, 1, 1, 0, 0, 0], 0.5, [1, 2, 3, 4]),
        ([1, 1, 1, 0, 0, 0], 0.25, [2, 3, 4, 5]),
        ([1, 0, 0, 0, 0, 0], 0.5, [0, 1, 2, 3]),  # one right answer takes one place
        ([1, 1, 1, 1, 1, 0], 0.5, [0, 1, 2, 5]),
        ([1, 1, None, 0, 0, 0], 0.5, [0, 1, 3, 4]),
    ],
)
def test_balanced_keeps_the_best_right_and_the_worst_wrong_answers(
    outcomes: list[Any], right_share: float, kept: list[int]
) -> None:
    rewards = [0.4, 0.5, 0.6, 0.1, 0.2, 0.3]
    options: dict[str, Any] = {"keep": "balanced", "outcomes": outcomes, "right_share": right_share}
    if outcomes == [1, 0, 0, 0, 0, 0]:
        rewards = [0.4, 0.1, 0.2, 0.3, 0.5, 0.6]
    assert down_sample(rewards, 4, **options).tolist() == kept


@pytest.mark.parametrize("keep", ["max_variance", "top"])
def test_samples_without_a_reward_stay_only_where_others_do_not_suffice(keep: Any) -> None:
    rewards = [None, 0.3, float("nan"), 0.1]
    assert down_sample(rewards, 2, keep=keep).tolist() == [1, 3]
    assert down_sample(rewards, 3, keep=keep).tolist() == [0, 1, 3]
    assert down_sample([None] * 3, 2, keep=keep).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_kept": 5}, "cannot keep 5 of each group of 4 among 4 rewards"),
        ({"num_kept": 2, "group_size": 3}, "cannot keep 2 of each group of 3 among 4"),
        ({"num_kept": 0}, "num_kept is 0, expected a whole number"),
        ({"num_kept": 2, "keep": "best"}, "keep is 'best', expected one of"),
        ({"num_kept": 2, "keep": "balanced"}, "keep='balanced' needs outcomes"),
        ({"num_kept": 2, "keep": "balanced", "outcomes": [1]}, "outcomes: got 1 values for 4"),
        (
            {"num_kept": 2, "keep": "balanced", "outcomes": [1] * 4, "right_share": 2},
            "right_share is 2, expected a share",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        down_sample([0.1, 0.2, 0.3, 0.4], **arguments)
