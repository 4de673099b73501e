"""What follows for aggregations, scales, votes and thresholds where scores are no probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime import Reranker, Scorer, TrajectoryScore
from rfprm_runtime.ground.tint import HIGH, LOW, Scale, three
from rfprm_runtime.scores.aggregation import (
    aggregate,
    aggregate_steps,
    check_aggregation,
    value_bounds,
    weighing,
)
from rfprm_runtime.scores.bounds import check_threshold, unit_scale
from tiny_models import KINDS, Kind, byte_tokenizer, manifest_of, scorer_of, tiny_manifest

finite = st.floats(allow_nan=False, allow_infinity=False)
NO_STEPS = "has no step scores; use 'reward', or score the trace after each step"


@given(st.lists(finite, min_size=1, max_size=6), finite)
def test_a_scale_puts_its_ends_at_the_ends_and_everything_in_between(
    scores: list[float], other: float
) -> None:
    scale = Scale.of([*scores, None])
    places = [scale.place(score) for score in sorted(scores)]
    assert places == sorted(places)
    assert 0 <= scale.place(other) <= 1
    assert scale.tint(scores[0]).startswith("rgba(")
    if all(0 <= score <= 1 for score in scores):
        assert scale.is_of_probabilities
        assert scale.sentence() == ""
    elif max(scores) / 2 - min(scores) / 2 > 0:
        assert places[0] == 0
        assert places[-1] == pytest.approx(1)


def test_colours_of_other_scores_run_from_the_lowest_to_the_highest() -> None:
    scale = Scale.of([-3.0, 1.0, 5.0])
    assert scale.tint(-3.0) == "rgba({},{},{},0.42)".format(*LOW)
    assert scale.tint(1.0).endswith(",0.00)")
    assert scale.tint(5.0) == "rgba({},{},{},0.42)".format(*HIGH)
    assert scale.sentence() == "colours run from -3.000, the lowest score shown, to 5.000"
    alone = Scale.of([-2.5])
    assert alone.tint(-2.5).endswith(",0.00)")
    assert alone.sentence() == ""


@pytest.mark.parametrize(
    ("score", "text"), [(0.25, "0.250"), (-41.25, "-41.250"), (1e6, "1.000e+06")]
)
def test_large_scores_are_short_to_read(score: float, text: str) -> None:
    assert three(score) == text


@pytest.mark.parametrize(
    ("values", "bounds", "wanted"),
    [
        ([0.0, 0.9, 1.8], (0.0, 1.8), [0.0, 0.5, 1.0]),
        ([-1.0, 0.0, 1.0], (-1.0, 1.0), [0.0, 0.5, 1.0]),
        ([-2.0, 0.0, 2.0], None, [1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-2))]),
        ([-1e308, 1e308, 710.0], None, [0.0, 1.0, 1.0]),
    ],
)
def test_the_unit_scale_runs_from_zero_to_one(
    values: list[float], bounds: Any, wanted: list[float]
) -> None:
    np.testing.assert_allclose(unit_scale(values, bounds), wanted, rtol=1e-12)
    assert np.isnan(unit_scale(float("nan"), bounds))


@pytest.mark.parametrize("how", ["mean", "min", "last", "product"])
def test_aggregations_of_steps_are_refused_where_there_are_none(how: str) -> None:
    manifest = manifest_of("sequence")
    with pytest.raises(ValueError, match=f"score is '{how}', but the PRM 'tiny' {NO_STEPS}"):
        check_aggregation("score", how, manifest)
    if how != "product":
        check_aggregation("score", how, manifest, score_prefixes=True)
    none = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="there are no step scores"):
        aggregate_steps(none, how)  # type: ignore[arg-type]
    score = TrajectoryScore(step_scores=none, trajectory_score=-2.0, reward=-2.0, num_tokens=1)
    assert aggregate(score, "trajectory") == aggregate(score) == -2.0
    with pytest.raises(ValueError, match="there are no step scores"):
        aggregate(score, how)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_needs_probabilities(kind: Kind) -> None:
    with pytest.raises(ValueError, match="a product needs probabilities"):
        check_aggregation("score", "product", manifest_of(kind), score_prefixes=True)
    with pytest.raises(ValueError, match=r"between -0.5 and 0.5; a product needs probabilities"):
        aggregate_steps(np.array([-0.5, 0.5], np.float32), "product")
    check_aggregation("score", "product", tiny_manifest(byte_tokenizer()))


@pytest.mark.parametrize("kind", KINDS)
def test_functions_are_the_users_own_business(kind: Kind) -> None:
    check_aggregation("score", lambda score: score.reward, manifest_of(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["reward", "trajectory", "mean", "min", "last"])
def test_scores_lie_within_their_bounds(kind: Kind, how: Any) -> None:
    manifest = manifest_of(kind)
    with scorer_of(kind, score_prefixes=kind == "sequence") as scorer:
        score = scorer.score("q", ["a", "b", "c"], ["d"])
    if how == "trajectory" and manifest.trajectory_readout is None:
        return
    bounds = value_bounds(manifest, how)
    assert bounds == ((-1.0, 1.0) if kind == "signed" else None)
    assert bounds is None or bounds[0] <= aggregate(score, how) <= bounds[1]


def test_a_threshold_that_all_or_no_scores_pass_is_refused() -> None:
    check_threshold("least", -1.0, (-1.0, 1.0), "scores")
    check_threshold("least", -1e9, None, "scores")
    with pytest.raises(ValueError, match=r"least is 1.5, but scores lie in \[-1, 1\], so nothing"):
        check_threshold("least", 1.5, (-1.0, 1.0), "scores")
    with pytest.raises(ValueError, match="so everything passes; choose a threshold in between"):
        check_threshold("least", -1.5, (-1.0, 1.0), "scores")
    with pytest.raises(ValueError, match="least is nan, expected a finite number"):
        check_threshold("least", float("nan"), None, "scores")


@pytest.mark.parametrize("kind", KINDS)
def test_no_vote_counts_against_its_answer(kind: Kind) -> None:
    weigh = weighing(manifest_of(kind), "reward")
    assert 0 <= weigh(-0.75) < weigh(0.0) < weigh(0.5) <= 1
    assert weighing(tiny_manifest(byte_tokenizer()), "reward")(1.25) == 1.25
    assert weighing(manifest_of(kind), lambda score: -1.0)(-1.0) == -1.0


def _scored(scorer: Scorer, rewards: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``scorer`` give these trajectory scores, in order."""
    scores = [
        TrajectoryScore(
            step_scores=np.zeros(0, np.float32), trajectory_score=r, reward=r, num_tokens=1
        )
        for r in rewards
    ]
    monkeypatch.setattr(scorer, "score_batch", lambda *_, **__: scores)


def test_three_candidates_of_low_reward_outvote_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"so\n\nThe answer is {answer}." for answer in (7, 7, 7, 9)]
    with scorer_of("sequence") as scorer, Reranker(scorer) as reranker:
        _scored(scorer, [-1.0, -1.25, -1.5, -0.75], monkeypatch)
        ranking = reranker.rank("q", texts, method="weighted_vote")
        best = reranker.rank("q", texts).best
    assert [vote.answer for vote in ranking.votes] == ["7", "9"]
    sigmas = [1 / (1 + math.exp(x)) for x in (1.0, 1.25, 1.5)]
    assert ranking.votes[0].weight == pytest.approx(sum(sigmas))
    assert (ranking[0].index, ranking[0].value) == (0, -1.0)
    assert (best.index, best.value) == (3, -0.75)


def test_a_reranker_says_at_once_what_its_aggregation_needs() -> None:
    with scorer_of("sequence") as scorer:
        with pytest.raises(ValueError, match=f"aggregation is 'min', .*{NO_STEPS}"):
            Reranker(scorer, aggregation="min")
        Reranker(scorer, aggregation="trajectory")
    with scorer_of("sequence", score_prefixes=True) as scorer:
        ranking = Reranker(scorer, aggregation="min").rank("q", ["a\n\nb", "c\n\nd"])
        assert all(ranked.value == ranked.score.step_scores.min() for ranked in ranking)  # type: ignore[union-attr]
