"""Advantages of steps: numbers worked out by hand, and what holds for any scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime.rewards.advantages import step_credits
from rfprm_runtime.rewards.dense import DenseCredit, step_advantages, token_advantages

SCORES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6)
GROUPS = st.lists(st.one_of(st.none(), SCORES), min_size=4, max_size=4)


def test_credits_are_compared_with_all_steps_of_the_group() -> None:
    # Progress: 0.5, 0.3 | 0.9, -0.7 — mean 0.25, unbiased spread 0.68069...
    found = step_advantages([[0.5, 0.8], [0.9, 0.2]], 2, DenseCredit("progress", epsilon=0.0))
    spread = np.std([0.5, 0.3, 0.9, -0.7], ddof=1)
    assert found[0] == pytest.approx(np.array([0.25, 0.05]) / spread)
    assert found[1] == pytest.approx(np.array([0.65, -0.95]) / spread)


def test_a_step_may_answer_for_all_that_follow() -> None:
    own = step_advantages([[0.5, 0.8, 0.1], [0.9, 0.2]], 2, DenseCredit("progress"))
    to_go = step_advantages([[0.5, 0.8, 0.1], [0.9, 0.2]], 2, DenseCredit("progress", "to_go"))
    for one, sums in zip(own, to_go, strict=True):
        assert one is not None
        assert sums is not None
        assert sums == pytest.approx([one[index:].sum() for index in range(len(one))])


@given(GROUPS, st.sampled_from(["mean", "min", "progress"]), st.floats(0, 3))
def test_a_groups_steps_add_up_to_nothing(scores: list, form: str, weight: float) -> None:
    found = step_advantages(scores, 4, DenseCredit(form, weight=weight))  # type: ignore[arg-type]
    assert [one is None for one in found] == [one is None for one in scores]
    known = [one for one in found if one is not None]
    if known:
        assert np.concatenate(known).sum() == pytest.approx(0.0, abs=1e-6)
    for one, given_scores in zip(found, scores, strict=True):
        if one is not None:
            assert len(one) == len(given_scores)
            credits = step_credits(given_scores, form)  # type: ignore[arg-type]
            # The better step never has the lower advantage.
            rises = np.subtract.outer(one, one) * np.subtract.outer(credits, credits)
            assert rises.min() >= -1e-9


def test_groups_know_nothing_of_each_other() -> None:
    both = step_advantages([[0.1], [0.9], [0.4, 0.3], [0.2]], 2)
    assert [*both] == [
        pytest.approx(one)
        for group in ([[0.1], [0.9]], [[0.4, 0.3], [0.2]])
        for one in step_advantages(group, 2)
    ]


def test_equal_credits_and_missing_scores_have_no_advantage() -> None:
    assert step_advantages([[0.3], [0.3], [], None], 2)[0] == pytest.approx([0.0])
    assert step_advantages([[0.3], [0.3], [], None], 2)[2:] == [None, None]
    third = step_advantages([[0.1 + 0.2], [0.3 - 1e-17]], 2, DenseCredit(epsilon=0.0))
    assert all(np.isfinite(one).all() for one in third if one is not None)


def test_tokens_have_the_advantage_of_their_step() -> None:
    spans = np.array([[1, 3], [4, 5]])
    found = token_advantages(10.0, [1.0, -2.0], spans, 7)
    # One before the first step, one between the two, two after the last.
    assert found.tolist() == [11.0, 11.0, 11.0, 8.0, 8.0, 10.0, 10.0]
    assert token_advantages(0.5, None, None, 2).tolist() == [0.5, 0.5]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 completions do not divide into groups of 2"):
        step_advantages([[0.1]] * 3, 2)
    with pytest.raises(ValueError, match="reach"):
        DenseCredit(reach="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight"):
        DenseCredit(weight=-1.0)
    with pytest.raises(ValueError, match="None or NaN"):
        step_advantages([[float("nan")], [0.1]], 2)
    with pytest.raises(ValueError, match=r"step 1 .* ends at token 9"):
        token_advantages(0.0, [1.0, 1.0], np.array([[0, 2], [2, 9]]), 4)
    with pytest.raises(ValueError, match="spans"):
        token_advantages(0.0, [1.0, 1.0], np.array([[0, 2]]), 4)
