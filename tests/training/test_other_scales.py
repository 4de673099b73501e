"""Evaluating and calibrating PRMs whose scores are no probabilities."""

from __future__ import annotations

import io
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from rfprm_export import checkpoint as checkpoints
from rfprm_runtime.artifact.manifest import Manifest, Readout
from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training.commands import evaluate
from rfprm_training.evaluation import calibrate, evaluated_sets, held_out, metrics
from rfprm_training.evaluation.calibrate import fit_calibration
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.held_out import rank_by_every_score, summarise
from rfprm_training.evaluation.printed_sets import print_set
from rfprm_training.evaluation.printing import NO_STEPS, print_evaluation
from rfprm_training.evaluation.set_figures import summarise_set
from rfprm_training.example import Example
from rfprm_training.learning.model_card import _results
from tiny_models import KINDS, Kind, manifest_of, scorer_of

RAW = Readout(transform="none", positive=0)
DIFFERENCE = Readout(transform="softmax", positive=1, scale=2, offset=-1)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not looked at here."""
    monkeypatch.setattr(held_out, "bootstrap", partial(metrics.bootstrap, num_resamples=5))


def _scale(kind: Kind, log_odds: float) -> float:
    """The score of a PRM of this kind."""
    return math.tanh(log_odds / 2) if kind == "signed" else log_odds


def _examples(kind: Kind, count: int = 120) -> tuple[list[Example], list[TrajectoryScore]]:
    """Right and wrong traces, with scores that know them; log-odds are around ±1."""
    rng = np.random.default_rng(0)
    examples, scores = [], []
    for index in range(count):
        right = index % 2 == 0
        labels = (1.0, 1.0) if right else (1.0, 0.0)
        trace = Trajectory(question=f"q{index // 4}", steps=("a", "b"), response=(str(right),))
        name = "gold" if right else "wrong_result"
        examples.append(Example(trace, labels, labels[1], trace.question, name, True))
        odds = [1 + rng.uniform(-0.1, 0.1), (1 if right else -1) + rng.uniform(-0.1, 0.1)]
        steps = [] if kind == "sequence" else [_scale(kind, x) for x in odds]
        whole = None if kind == "signed" else odds[1]
        reward = float(np.mean(steps)) + (whole or 0.0) if steps else odds[1]
        scores.append(
            TrajectoryScore(step_scores=steps, trajectory_score=whole, reward=reward, num_tokens=9)
        )
    return examples, scores


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_set_has_all_figures_that_the_scores_allow(kind: Kind) -> None:
    examples, scores = _examples(kind)
    found = summarise_set(examples, [*scores[:-1], None], manifest_of(kind))
    assert found.outcome_auc is not None
    assert found.outcome_auc.value == 1.0
    assert found.has_steps == (kind != "sequence")
    said = io.StringIO()
    print_set(Console(file=said, width=300), "set", found)
    assert (NO_STEPS in said.getvalue()) == (kind == "sequence")
    if kind == "sequence":
        assert found.first_error is found.step_calibration is None
    else:
        assert found.first_error is not None
        assert found.first_error_at_half is not None
        assert found.thresholds is not None
        assert found.step_calibration is not None
        # One wrong trace has no score, and counts as one in which no error was found.
        assert found.first_error.right_accepted == found.first_error_at_half.right_accepted == 1.0
        assert found.first_error.wrong_located == pytest.approx(59 / 60)
        assert found.first_error_at_half.wrong_located == pytest.approx(59 / 60)
        assert all(-0.9 < threshold < 0.9 for threshold in found.thresholds)
        assert min(found.step_calibration.claimed) > 0.2
        assert max(found.step_calibration.claimed) < 0.8
    if kind != "signed":
        assert found.outcome_calibration is not None
        assert found.outcome_calibration_fitted is not None
        # σ(1) = 0.73 is claimed, and always right.
        assert found.outcome_calibration.ece == pytest.approx(0.27, abs=0.02)
        assert found.outcome_calibration_fitted.ece < 0.01
    json.dumps(found.as_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_data_has_all_figures_that_the_scores_allow(kind: Kind) -> None:
    examples, scores = _examples(kind)
    found = summarise(examples, scores, examples, scores, manifest_of(kind))
    missing = {"sequence": {"mean_step_score"}, "raw": set(), "signed": {"trajectory_score"}}[kind]
    kinds = {"reward", "trajectory_score", "mean_step_score", "shorter_is_better"}
    assert set(found.rankings) == set(rank_by_every_score(examples, scores)) == kinds - missing
    assert found.constructed_auc_within_question.value == 1.0
    said = io.StringIO()
    print_evaluation(Console(file=said, width=300), found)
    content = json.loads(json.dumps(found.as_dict()))
    card = _results(content, None)
    if kind == "sequence":
        assert found.first_error is found.thresholds is found.first_error_by_kind is None
        assert NO_STEPS in said.getvalue()
        assert "constructed trajectories" not in card
    else:
        assert found.first_error is not None
        assert found.first_error_at_half is not None
        assert found.first_error.f1 == found.first_error_at_half.f1 == 1.0
        assert found.first_error_by_kind == {"wrong_result": 1.0}
        assert "F1 1.000" in said.getvalue()
        assert "On 120 constructed trajectories" in card


@pytest.mark.parametrize(
    ("readout", "scores", "odds"),
    [
        (None, [0.5, 1 / (1 + math.exp(-2)), 1.0], [0.0, 2.0, math.log((1 - 1e-6) / 1e-6)]),
        (RAW, [-40.0, 0.0, 3.5], [-40.0, 0.0, 3.5]),
        (DIFFERENCE, [0.0, math.tanh(1.0)], [0.0, 2.0]),
        (RAW.model_copy(update={"scale": -2.0, "offset": 1.0}), [1.0, 5.0], [0.0, -2.0]),
    ],
)
def test_scores_of_every_scale_claim_log_odds(
    readout: Readout | None, scores: list[float], odds: list[float]
) -> None:
    claims = Claims(readout)
    np.testing.assert_allclose(claims.log_odds(scores), odds, atol=1e-9)
    claimed = 1 / (1 + np.exp(-np.array(odds)))
    np.testing.assert_allclose(claims.probabilities(scores), claimed, atol=2e-6)
    assert claims.probabilities(claims.undecided) == pytest.approx(0.5)


def _noisy(kind: Kind) -> tuple[list[Example], list[TrajectoryScore]]:
    """Scores whose log-odds are three times what they should be, less one."""
    rng = np.random.default_rng(1)
    examples, scores = [], []
    for index in range(1500):
        odds = rng.normal(0, 1, 2)
        labels = tuple((rng.random(2) < 1 / (1 + np.exp(-odds))).astype(float).tolist())
        claimed = [_scale(kind, 3 * x - 1) for x in odds]
        trace = Trajectory(question=f"q{index}", steps=("a", "b"))
        examples.append(Example(trace, labels, labels[1], trace.question, "test"))
        steps = [] if kind == "sequence" else claimed
        scores.append(
            TrajectoryScore(
                step_scores=steps, trajectory_score=claimed[1], reward=0.0, num_tokens=1
            )
        )
    return examples, scores


def _readouts(manifest: Manifest) -> dict[str, Readout | None]:
    return {"step": manifest.step_readout, "trajectory": manifest.trajectory_readout}


def test_scored_prefixes_are_steps_of_a_reward_model_of_whole_sequences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def open_scorer(path: Path, *, score_prefixes: bool) -> Any:
        asked.append(score_prefixes)
        return scorer_of("sequence", score_prefixes=score_prefixes)

    monkeypatch.setattr(evaluated_sets, "open_scorer", open_scorer)
    rows = [
        {"id": f"gsm8k-{i}", "problem": f"q{i}", "steps": ["a", "b"], "label": i % 3 - 1}
        for i in range(60)
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = f"processbench:{path}"
    app = typer.Typer()
    app.command()(evaluate)

    def said(*options: str) -> str:
        result = CliRunner().invoke(app, [str(tmp_path), "--on", spec, *options])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    assert "(--score-prefixes scores a trace after each step)" in said()
    found = said("--score-prefixes", "--against", str(tmp_path))
    assert NO_STEPS not in found
    assert "first wrong step: F1" in found
    assert "first errors that change 0.0%" in found
    assert asked == [False, True, True]
    # Its score is a logit, which claims a chance of one half at 0.
    assert Claims.of_steps(manifest_of("sequence")).undecided == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_calibrations_are_fitted_on_log_odds(kind: Kind) -> None:
    examples, scores = _noisy(kind)
    for what, readout in _readouts(manifest_of(kind)).items():
        if readout is None and what == "trajectory":
            continue
        found = fit_calibration(what, examples, scores, fitted_on="test", readout=readout)  # type: ignore[arg-type]
        if readout is None:
            assert found is None  # there are no step scores
            continue
        assert found is not None
        assert found.fitted.temperature == pytest.approx(3, rel=0.25)
        assert found.fitted.bias == pytest.approx(1 / 3, abs=0.15)
        assert found.helps


def test_a_calibrated_raw_score_is_a_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, scores = _noisy("sequence")
    readout = Readout(transform="none", positive=0, scale=0.5, offset=-3.0)
    halved = [
        score.model_copy(update={"trajectory_score": 0.5 * (score.trajectory_score or 0.0) - 3.0})
        for score in scores
    ]
    found = fit_calibration("trajectory", examples, halved, fitted_on="test", readout=readout)
    assert found is not None
    assert found.fitted.temperature == pytest.approx(3, rel=0.25)
    written: list[Any] = []

    class Checkpoint:
        trajectory_readout = readout
        base = None

        def model_copy(self, update: dict[str, Any]) -> Checkpoint:
            written.append(update)
            return self

        def to_json(self) -> str:
            return "{}"

    monkeypatch.setattr(calibrate, "read_checkpoint", lambda folder: Checkpoint())
    monkeypatch.setattr(calibrate, "record_reference", lambda *_, **__: None)
    monkeypatch.setattr(calibrate, "find_base_model", lambda *_: None)
    (tmp_path / checkpoints.CHECKPOINT_NAME).write_text("{}")
    calibrate.write_calibration(tmp_path, [found])
    [changes] = written
    after = changes["trajectory_readout"]
    assert after.calibration == found.fitted
    assert after.bounds == (0.0, 1.0)
