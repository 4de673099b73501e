from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rfprm_training import TrainingError
from rfprm_training.labelling.pairing import merge_paired, pair_steps
from rfprm_training.labelling.step_rewards import (
    alignment_rewards,
    coherence_log_ratio,
    coherence_rewards,
    cosine,
    fuse,
    quality_rewards,
)

X, Y = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def test_alignment_is_the_cosine_mapped_to_the_unit_interval() -> None:
    found = alignment_rewards([X, Y, -X], [X, X, X], [0, 1, 2])
    assert found.tolist() == [1.0, 0.5, 0.0]


def test_alignment_without_pairs_takes_the_nearest() -> None:
    assert alignment_rewards([X, Y], [Y, X]).tolist() == [1.0, 1.0]


def test_a_step_without_a_pair_has_no_alignment() -> None:
    assert np.isnan(alignment_rewards([X, Y], [X], [0, -1])).tolist() == [False, True]
    assert np.isnan(alignment_rewards([X], np.zeros((0, 2)))).all()


def test_coherence_is_the_formula_of_the_paper() -> None:
    previous, steps, negatives = np.array([X]), np.array([X + Y]), np.array([Y, -X])
    expected = np.log(np.exp(np.sqrt(0.5) / 0.5) / (np.exp(0) + np.exp(-1 / 0.5)))
    found = coherence_log_ratio(previous, steps, negatives, temperature=0.5)
    assert found == pytest.approx([expected])


def test_a_step_that_follows_like_a_random_one_has_coherence_one_half() -> None:
    for count in (1, 7, 64):
        found = coherence_rewards([X], [Y], [Y] * count, temperature=0.1)
        assert found == pytest.approx([0.5])
    assert coherence_rewards([X], [X], [Y], temperature=0.1) > 0.99
    assert coherence_rewards([X], [-X], [Y], temperature=0.1) < 0.01


def test_coherence_grows_with_agreement() -> None:
    angles = np.linspace(0, np.pi, 20)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = coherence_rewards(np.tile(X, (20, 1)), steps, [Y, -Y], temperature=0.1)
    assert (np.diff(found) < 0).all()


def test_quality_maps_the_scale() -> None:
    assert quality_rewards([1, 3, 5], lowest=1, highest=5).tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(TrainingError, match=r"a grade is 6\.0, expected 1 to 5"):
        quality_rewards([6], lowest=1, highest=5)


def test_fusion_is_the_softmax_weighted_sum() -> None:
    values = np.array([0.2, 0.9, 0.5])
    weights = np.exp(values) / np.exp(values).sum()
    found = fuse({name: [value] for name, value in zip("abc", values, strict=True)})
    assert found == pytest.approx([(weights * values).sum()])


def test_unknown_components_are_ignored() -> None:
    found = fuse({"alignment": [np.nan, 0.4], "quality": [np.nan, np.nan]})
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(0.4)


@given(
    arrays.arrays(np.float64, (3, 5), elements=st.floats(0, 1)),
    st.floats(0.05, 10),
)
def test_the_fused_reward_lies_between_its_components(
    values: np.ndarray, temperature: float
) -> None:
    found = fuse(dict(zip("abc", values, strict=True)), temperature=temperature)
    assert (found >= values.min(axis=0) - 1e-12).all()
    assert (found <= values.max(axis=0) + 1e-12).all()


@given(arrays.arrays(np.float64, (4, 6), elements=st.floats(-3, 3)))
def test_all_maps_stay_in_the_unit_interval(vectors: np.ndarray) -> None:
    for found in (
        alignment_rewards(vectors, vectors[::-1]),
        coherence_rewards(vectors, vectors[::-1], vectors[:2], temperature=0.05),
    ):
        assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: cosine([1, 2], [1, 2, 3]), "vectors of 2 and 3 dimensions"),
        (lambda: alignment_rewards([X], [X], [1]), "expected one of -1 to 0"),
        (lambda: alignment_rewards(X, [X]), r"steps has shape \(2,\)"),
        (lambda: coherence_rewards([X], [X], np.zeros((0, 2)), temperature=1), "negatives"),
        (lambda: coherence_rewards([X], [X], [X], temperature=0), "temperature is 0"),
        (lambda: fuse({"a": [1.5]}), r"expected \[0, 1\]"),
        (lambda: fuse({"a": [1.0], "b": [1.0, 1.0]}), "differ in shape"),
        (lambda: fuse({}), "no component"),
        (lambda: quality_rewards([1], lowest=2, highest=2), "a highest above the lowest"),
    ],
)
def test_bad_arguments_are_named(call: object, complaint: str) -> None:
    with pytest.raises(TrainingError, match=complaint):
        call()  # type: ignore[operator]


def test_surplus_steps_go_with_the_most_similar_response_step() -> None:
    assert pair_steps([X, X, Y, Y], [X, Y]).tolist() == [0, 0, 1, 1]
    assert pair_steps([X, Y, Y, Y], [X, Y]).tolist() == [0, 1, 1, 1]


def test_as_many_steps_as_the_response_or_fewer_pair_by_index() -> None:
    assert pair_steps([X, Y], [Y, X, X]).tolist() == [0, 1]
    assert pair_steps([X, Y], np.zeros((0, 2))).tolist() == [-1, -1]


def test_merging_joins_neighbours_with_the_same_response_step() -> None:
    assert merge_paired(["a", "b", "c"], [0, 0, 1]) == ["a\n\nb", "c"]
    assert merge_paired(["a", "b"], [-1, -1]) == ["a", "b"]
    with pytest.raises(TrainingError, match="1 pairs for 2 steps"):
        merge_paired(["a", "b"], [0])
