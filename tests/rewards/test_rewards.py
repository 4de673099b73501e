"""Eq. 12: mixing, group advantages as trainers compute them, step credits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.rewards.advantages import (
    group_advantages,
    mixed_reward,
    step_credits,
)

reward_lists = st.lists(
    st.one_of(st.none(), st.floats(0.0, 2.0, width=32)), min_size=4, max_size=24
).map(lambda values: values[: len(values) // 4 * 4])
scores = st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=12)


def test_the_mixed_reward_is_equation_12() -> None:
    assert mixed_reward([1.0, 0.0], [1.2, 0.4], 0.75).tolist() == pytest.approx([1.15, 0.3])
    assert float(mixed_reward(1.0, 0.8, beta=0.5)) == pytest.approx(0.9)


def test_a_weight_of_zero_needs_no_reward() -> None:
    assert mixed_reward(None, [1.2], beta=1.0).tolist() == [1.2]
    assert mixed_reward([1.0], None, beta=0.0).tolist() == [1.0]


def test_an_unknown_reward_stays_unknown() -> None:
    mixed = mixed_reward([1.0, None, 1.0], [0.5, 0.5, float("nan")])
    assert np.isnan(mixed).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [0.5], 1.5), r"beta is 1\.5"),
        (([1.0], [0.5, 0.5]), r"outcome has shape \(1,\)"),
        ((["yes"], [0.5]), "outcome must be numbers"),
        (([float("inf")], [0.5]), "outcome holds an infinite number"),
    ],
)
def test_rewards_that_cannot_be_mixed_are_refused(
    arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        mixed_reward(*arguments)  # type: ignore[arg-type]


@given(reward_lists, st.sampled_from(["group", "batch", "none"]))
def test_advantages_match_trl(rewards: list[float | None], scale: str) -> None:
    """The lines ``GRPOTrainer`` runs on its rewards, with TRL's own ``nanstd`` (float32 inside)."""
    torch = pytest.importorskip("torch")
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    values = torch.tensor([np.nan if x is None else x for x in rewards], dtype=torch.float64)
    grouped = values.view(-1, 4)
    means = torch.nanmean(grouped, dim=1).repeat_interleave(4)
    spreads = nanstd(grouped, dim=1).repeat_interleave(4) if scale == "group" else nanstd(values)
    wanted = values - means if scale == "none" else (values - means) / (spreads + 1e-4)
    wanted = torch.nan_to_num(wanted, nan=0.0).numpy()
    ours = group_advantages(rewards, 4, scale=scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6)


@given(reward_lists, st.randoms(use_true_random=False))
def test_groups_may_be_interleaved(rewards: list[float | None], random: object) -> None:
    ids = [index // 4 for index in range(len(rewards))]
    order = list(range(len(rewards)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = group_advantages([rewards[i] for i in order], group_ids=[ids[i] for i in order])
    np.testing.assert_allclose(shuffled, group_advantages(rewards, 4)[order], atol=1e-9)


@given(reward_lists)
def test_unscored_samples_have_no_advantage_and_change_no_sum(rewards: list[float | None]) -> None:
    advantages = group_advantages(rewards, 4)
    assert np.isfinite(advantages).all()
    assert all(a == 0.0 for a, r in zip(advantages, rewards, strict=True) if r is None)
    np.testing.assert_allclose(advantages.reshape(-1, 4).sum(axis=1), 0.0, atol=1e-6)


def test_equal_rewards_and_single_samples_have_no_advantage() -> None:
    assert group_advantages([0.3, 0.3, 0.3, None], 2).tolist() == [0.0] * 4
    assert group_advantages([0.3, 0.9], 1).tolist() == [0.0, 0.0]
    assert group_advantages([], 4).tolist() == []
    assert group_advantages([0.1, 0.1, 0.1, None], 4, epsilon=0.0).tolist() == [0.0] * 4


def test_settings_cover_the_conventions_of_other_trainers() -> None:
    rewards = [0.0, 1.0, 1.0, 1.0]
    population = group_advantages(rewards, 4, ddof=0, epsilon=1e-8)
    values = np.array(rewards)
    assert population == pytest.approx((values - values.mean()) / (values.std() + 1e-8))
    assert group_advantages(rewards, 4, clip=1.0).min() == -1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "group_size or group_ids"),
        ({"group_size": 2, "group_ids": [0, 0, 0]}, "group_size or group_ids"),
        ({"group_size": 2}, "3 rewards do not divide into groups of 2"),
        ({"group_ids": [0]}, "1 group ids for 3 rewards"),
        ({"group_size": 3, "scale": "std"}, "scale is 'std'"),
        ({"group_size": 3, "clip": -1.0}, "expected 0 or more"),
    ],
)
def test_groups_that_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages([0.1, 0.2, 0.3], **arguments)  # type: ignore[arg-type]


@given(scores)
def test_credits_sum_to_the_reward_of_their_form(step_scores: list[float]) -> None:
    assert step_credits(step_scores, "mean").sum() == pytest.approx(np.mean(step_scores))
    assert step_credits(step_scores, "progress").sum() == pytest.approx(step_scores[-1])
    assert step_credits(step_scores, "min", temperature=0.0).sum() == min(step_scores)
    soft = step_credits(step_scores, "min").sum()
    assert min(step_scores) - 1e-9 <= soft <= np.mean(step_scores) + 1e-9


@given(scores, st.integers(1, 20))
def test_easy_steps_around_a_wrong_one_raise_only_the_mean(
    step_scores: list[float], count: int
) -> None:
    wrong = [*step_scores, 0.1]
    padded = [1.0] * count + wrong
    assert step_credits(padded, "min").sum() == pytest.approx(
        step_credits(wrong, "min").sum(), abs=0.01
    )
    assert step_credits(padded, "progress").sum() == pytest.approx(0.1)
    assert step_credits(padded, "mean").sum() >= step_credits(wrong, "mean").sum() - 1e-9


@pytest.mark.parametrize(
    ("step_scores", "options", "message"),
    [
        ([], {}, "at least one"),
        ([0.5, None], {}, "no None or NaN"),
        ([0.5], {"form": "sum"}, "form is 'sum'"),
        ([0.5], {"form": "min", "temperature": -1.0}, "temperature is -1"),
        ([[0.5]], {}, "one number per sample"),
    ],
)
def test_invalid_credits_are_refused(
    step_scores: list[float], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        step_credits(step_scores, **options)  # type: ignore[arg-type]
