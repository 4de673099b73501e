from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_export.verify import rank_correlation
from rfprm_training.evaluation.metrics import (
    Estimate,
    auc,
    bootstrap,
    bootstrap_rows,
    bootstrap_weighted,
    first_error_accuracy,
    first_error_f1,
    misled_pairs,
    pairs_won,
    picks,
    rankings,
    share_won,
    within_group_auc,
)
from rfprm_training.evaluation.ordered import Ordered

SCORES = np.array([0.9, 0.1, 0.4, 0.6, 0.2, 0.2])
RIGHT = np.array([True, False, True, False, True, False])
GROUPS = np.array([0, 0, 1, 1, 2, 2])


def test_auc_counts_pairs_and_half_for_ties() -> None:
    # Right 0.9, 0.4, 0.2 against wrong 0.1, 0.6, 0.2: 3 + 2 + 1.5 of 9 pairs.
    assert auc(SCORES, RIGHT) == pytest.approx(6.5 / 9)


def test_within_question_auc_ignores_pairs_across_questions() -> None:
    assert within_group_auc(SCORES, RIGHT, GROUPS) == pytest.approx((1 + 0 + 0.5) / 3)


def test_auc_against_a_prior_counts_only_the_pairs_that_it_ranks_wrongly() -> None:
    # The prior ranks the pairs (0, 1) and (4, 5) wrongly, (2, 3) rightly and (6, 7) not at all.
    right = np.array([True, False] * 4)
    prior = np.array([0.2, 0.8, 0.8, 0.2, 0.1, 0.9, 0.5, 0.5])
    scores = np.array([0.9, 0.1, 0.0, 1.0, 0.5, 0.5, 0.0, 1.0])
    groups = np.repeat(np.arange(4), 2)
    assert share_won(misled_pairs(np.stack([scores, prior], axis=1), right, groups)) == 0.75
    assert share_won(misled_pairs(np.stack([prior, prior], axis=1), right, groups)) == 0.0
    blind = np.stack([scores, np.full(8, 0.5)], axis=1)
    assert np.isnan(share_won(misled_pairs(blind, right, groups)))


def test_auc_without_both_kinds_is_undefined() -> None:
    assert np.isnan(auc(SCORES, np.ones(6, dtype=bool)))
    assert np.isnan(within_group_auc(SCORES, RIGHT, np.arange(6)))


def test_best_of_n_by_hand() -> None:
    found = picks(rankings(SCORES, RIGHT, GROUPS))
    assert found.picked == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.random == pytest.approx(0.5)
    assert found.oracle == 1.0
    assert found.gap_recovered == pytest.approx(0.0)


def test_a_perfect_scorer_recovers_the_whole_gap() -> None:
    assert picks(rankings(RIGHT.astype(float), RIGHT, GROUPS)).gap_recovered == 1.0


def test_groups_need_not_be_adjacent() -> None:
    order = np.array([5, 0, 3, 1, 4, 2])
    shuffled = rankings(SCORES[order], RIGHT[order], GROUPS[order])
    assert picks(shuffled) == picks(rankings(SCORES, RIGHT, GROUPS))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=40))
def test_auc_equals_its_slow_twin(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], dtype=float)
    right = np.array([flag for _, flag in pairs])
    won = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    expected = np.mean(won) if won else np.nan
    np.testing.assert_allclose(auc(scores, right), expected)


def test_bootstrap_intervals_contain_the_value_and_are_reproducible() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.5
    scores = right + rng.normal(size=400)
    groups = np.repeat(np.arange(100), 4)
    first = bootstrap(within_group_auc, scores, right, groups, num_resamples=200)
    assert first.low < first.value < first.high
    assert first.high - first.low > 0.02
    assert first == bootstrap(within_group_auc, scores, right, groups, num_resamples=200)


def test_rows_are_resampled_as_questions_are() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 4)
    right = rng.random(120) < 0.5
    scores = rng.normal(size=120) + right
    rows = bootstrap_rows(pairs_won, rankings(scores, right, groups))
    whole = bootstrap(within_group_auc, scores, right, groups)
    assert (rows.value, rows.low, rows.high) == pytest.approx((whole.value, whole.low, whole.high))


def test_first_error_needs_the_exact_step() -> None:
    steps = [np.array([0.9, 0.2, 0.1]), np.array([0.9, 0.8]), np.array([0.4, 0.1])]
    found = first_error_accuracy([s.astype(np.float32) for s in steps], [1, None, 1])
    assert found.wrong_located == 0.5
    assert found.right_accepted == 1.0
    assert found.f1 == pytest.approx(2 / 3)


def test_items_that_are_sorted_once_give_the_figures_of_each_sample() -> None:
    """Weights say how often a question was drawn; the slow twin repeats its items."""
    rng = np.random.default_rng(2)
    right = rng.random(90) < 0.6
    scores = np.round(rng.normal(size=90) + right, 1)  # with ties
    questions, places = np.arange(90) // 3, np.arange(90) % 3

    def twin(figure: Callable[[np.ndarray], float]) -> Estimate:
        rows = np.arange(90, dtype=np.float64)
        return bootstrap(lambda drawn, *_: figure(drawn.astype(int)), rows, right, questions)

    def spearman(rows: np.ndarray) -> float:
        return rank_correlation(scores[rows], right[rows].astype(float)) or np.nan

    slow = [
        twin(lambda rows: auc(scores[rows], right[rows])),
        twin(lambda rows: within_group_auc(scores[rows], right[rows], places[rows])),
        twin(spearman),
    ]
    every = Ordered(scores, right)
    figures = (every.auc, Ordered(scores, right, places).auc, every.rank_correlation)
    names = questions.astype(str)  # as strings, they are drawn in another order
    for expected, figure in zip(slow, figures, strict=True):
        found = bootstrap_weighted(figure, questions)
        assert found is not None
        assert found.with_ends == pytest.approx(expected.with_ends)
        other = bootstrap_weighted(figure, names)
        assert other is not None
        assert other.value == found.value


@pytest.mark.parametrize("right", [[], [True] * 4, [False] * 4])
def test_without_right_and_wrong_items_there_is_no_figure(right: list[bool]) -> None:
    flags = np.array(right, dtype=np.bool_)
    ordered = Ordered(np.arange(len(flags), dtype=np.float64), flags)
    assert bootstrap_weighted(ordered.auc, flags) is None
    assert bootstrap_weighted(ordered.rank_correlation, flags) is None


def test_items_of_the_other_kind_in_other_groups_are_no_pairs() -> None:
    right = np.array([True, False, True, False])
    found = Ordered(np.array([1.0, 2.0, 3.0, 4.0]), right, np.array([0, 1, 2, 3]))
    assert np.isnan(found.auc(np.ones(4)))
    other = Ordered(np.array([1.0, 2.0, 2.0, 2.0]), right, np.array([7, 7, 3, 3]))
    assert other.auc(np.ones(4)) == 0.25
    assert other.auc(np.array([1.0, 1.0, 0.0, 5.0])) == 0.0


def test_f1_of_first_errors_has_an_interval_over_questions() -> None:
    rng = np.random.default_rng(3)
    steps = [rng.random(4).astype(np.float32) for _ in range(60)]
    truth = [None if n % 2 else n % 4 for n in range(60)]
    names = [str(n // 2) for n in range(60)]
    thresholds = np.where(np.arange(60) < 30, 0.2, 0.1)
    found = first_error_f1(steps, truth, names, thresholds)
    assert found is not None
    assert found.value == first_error_accuracy(steps, truth, thresholds).f1
    rows, questions = np.arange(60, dtype=np.float64), np.unique(names, return_inverse=True)[1]

    def twin(drawn: np.ndarray, *_: object) -> float:
        some = drawn.astype(int)
        of_drawn = [steps[n] for n in some], [truth[n] for n in some], thresholds[some]
        return first_error_accuracy(*of_drawn).f1

    expected = bootstrap(twin, rows, rows > 0, questions)
    assert found.with_ends == pytest.approx(expected.with_ends)
    assert first_error_f1(steps[::2], [0] * 30, names[::2]) is None
