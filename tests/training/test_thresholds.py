"""Thresholds that are chosen on data: round ones, and exact ones where these are too coarse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_training.evaluation.metrics import first_error_accuracy
from rfprm_training.evaluation.step_metrics import (
    Search,
    best_first_error_threshold,
    classify_steps,
    cross_fitted_classification,
)

GRID = np.linspace(0, 1, 201)[1:-1]
TRACES = st.lists(
    st.tuples(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(-1, 4)),
    min_size=2,
    max_size=12,
).map(lambda rows: [(steps, min(error, len(steps) - 1)) for steps, error in rows])


@given(TRACES)
def test_no_round_threshold_has_a_higher_f1(traces: list[tuple[list[int], int]]) -> None:
    steps = [np.array(row, np.float32) / 40 for row, _ in traces]
    truth = [None if error < 0 else error for _, error in traces]

    def worth(threshold: float) -> float:
        found = first_error_accuracy(steps, truth, threshold)
        shares = [x for x in (found.wrong_located, found.right_accepted) if x == x]
        return found.f1 if len(shares) == 2 else sum(shares)

    chosen = best_first_error_threshold(steps, truth)
    best = max(worth(threshold) for threshold in GRID)
    assert worth(chosen) >= best - 1e-9
    if best == 0:
        assert chosen == 0.5 or worth(chosen) > 0


def test_scores_that_crowd_together_get_an_exact_threshold() -> None:
    rng = np.random.default_rng(0)
    right = [1 - rng.uniform(1e-6, 1e-5, 3).astype(np.float32) for _ in range(40)]
    wrong = [steps.copy() for steps in right]
    for steps in wrong:
        steps[1] -= 6e-4
    chosen = best_first_error_threshold([*right, *wrong], [None] * 40 + [1] * 40)
    found = first_error_accuracy([*right, *wrong], [None] * 40 + [1] * 40, chosen)
    assert 1 - 6e-4 < chosen < 1 - 1e-5
    assert found.f1 == 1.0
    classified = cross_fitted_classification(
        np.concatenate([*right, *wrong]).astype(np.float64),
        np.array([True] * 120 + [True, False, True] * 40),
        [f"q{index // 3}" for index in range(240)],
    )
    assert classified.prm_score == 1.0


def test_one_score_far_off_does_not_spoil_the_search() -> None:
    """The ends of raw scores are the lowest and the highest: one outlier makes the grid coarse."""
    rng = np.random.default_rng(1)
    steps = [rng.normal(1, 0.3, 3).astype(np.float32) for _ in range(100)]
    truth = [None if index % 2 else 2 for index in range(100)]
    for scores, error in zip(steps, truth, strict=True):
        scores[2] -= 0.0 if error is None else 1.5
    steps[0][2] = -200.0
    chosen = best_first_error_threshold(steps, truth, Search(-200.0, 2.0, 0.0))
    assert first_error_accuracy(steps, truth, chosen).f1 > 0.9


def test_a_round_threshold_stays_where_an_exact_one_gains_little() -> None:
    rng = np.random.default_rng(2)
    steps = [rng.random(3).astype(np.float32) for _ in range(300)]
    truth = [None if index % 2 else index % 3 for index in range(300)]
    chosen = best_first_error_threshold(steps, truth)
    assert np.abs(GRID - chosen).min() < 1e-9


@pytest.mark.parametrize("truth", [[None, None], [0, 1]])
def test_traces_of_one_kind_have_a_best_share(truth: list[int | None]) -> None:
    steps = [np.array([0.3, 0.9], np.float32), np.array([0.9, 0.4], np.float32)]
    chosen = best_first_error_threshold(steps, truth)
    found = first_error_accuracy(steps, truth, chosen)
    assert 1.0 in (found.wrong_located, found.right_accepted)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=30),
    st.integers(0, 9),
)
def test_one_question_alone_leaves_nothing_to_choose_by(
    items: list[tuple[int, bool]], seed: int
) -> None:
    scores = np.array([score for score, _ in items]) / 20
    right = np.array([flag for _, flag in items])
    found = cross_fitted_classification(scores, right, [f"q{seed}"] * len(items))
    assert found == classify_steps(scores >= 0.5, right)
