"""Rewards of completions by PRMs whose scores are no probabilities."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime import Scorer, Trajectory
from rfprm_runtime.integrations import openrlhf, trl, verl
from rfprm_runtime.rewards import step_credits
from rfprm_runtime.rewards.completions import RewardSettings, completion_rewards
from tiny_models import KINDS, Kind, fake_artifact, manifest_of

TEXTS = ["2 + 2 = 4.\n\nThe answer is 4.", "2 + 2 = 5.\n\nThe answer is 5.", "Four."]
PROMPTS = ["What is 2 + 2?"] * 3


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("scales")
    return {kind: str(fake_artifact(folder / kind, manifest_of(kind))) for kind in KINDS}


def _process(artifact: str, **options: Any) -> list[float]:
    """Eq. 11, without the rewards' own code."""
    with Scorer.load(artifact, backend="fake", **options) as scorer:
        traces = [Trajectory.from_text(p, t) for p, t in zip(PROMPTS, TEXTS, strict=True)]
        return [score.reward for score in scorer.score_batch(traces)]


def _settings(artifact: str, **settings: Any) -> RewardSettings:
    return RewardSettings(artifact, backend="fake", **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_process_reward_alone_is_equation_11(kind: Kind, artifacts: dict[str, str]) -> None:
    found = completion_rewards(PROMPTS, TEXTS, None, _settings(artifacts[kind]))
    assert [reward.reward for reward in found] == _process(artifacts[kind])
    assert [reward.num_steps for reward in found] == [2, 2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_unit_scale_brings_every_reward_to_the_scale_of_outcomes(
    kind: Kind, artifacts: dict[str, str]
) -> None:
    settings = _settings(artifacts[kind], unit_scale=True, beta=0.5)
    found = completion_rewards(PROMPTS, TEXTS, [1.0, 0.0, None], settings)
    units = [
        (r + 1) / 2 if kind == "signed" else 1 / (1 + math.exp(-r))
        for r in _process(artifacts[kind])
    ]
    assert [reward.process for reward in found] == pytest.approx(units)
    assert found[0].reward == pytest.approx(0.5 + 0.5 * units[0])
    assert found[2].reward is None


def test_bounded_rewards_are_mixed_as_they_are(artifacts: dict[str, str]) -> None:
    found = completion_rewards(PROMPTS, TEXTS, [1, 0, 0], _settings(artifacts["signed"], beta=0.5))
    process = _process(artifacts["signed"])
    wanted = [0.5 + 0.5 * process[0], 0.5 * process[1], 0.5 * process[2]]
    assert [reward.reward for reward in found] == pytest.approx(wanted)


def _adapters(artifact: str, **settings: Any) -> list[Any]:
    """Reward functions of all stacks that compare answers, made but not called."""
    sample = ("x", TEXTS[0], "4", {"question": PROMPTS[0]})
    return [
        lambda: trl.process_reward(artifact, outcome="answer", backend="fake", **settings),
        lambda: openrlhf.process_reward(artifact, backend="fake", **settings),
        lambda: verl.compute_score(*sample, artifact=artifact, backend="fake", **settings),
        lambda: completion_rewards(PROMPTS, TEXTS, [1, 0, 1], _settings(artifact, **settings)),
    ]


@pytest.mark.parametrize("kind", ["sequence", "raw"])
@pytest.mark.parametrize("process", ["reward", "trajectory"])
def test_rewards_without_bounds_are_not_mixed_with_outcomes(
    kind: Kind, process: str, artifacts: dict[str, str]
) -> None:
    for make in _adapters(artifacts[kind], process=process):
        with pytest.raises(ValueError, match=f"has no bounds for '{process}'.*unit_scale=True"):
            make()
    for way_out in ({"unit_scale": True}, {"beta": 1.0, "unscorable": -9.0}):
        make = _adapters(artifacts[kind], process=process, **way_out)[1]
        make()
    settings = _settings(artifacts[kind], process=lambda score: math.tanh(score.reward))
    found = completion_rewards(PROMPTS, TEXTS, [1, 0, 1], settings)
    assert all(reward.reward is not None for reward in found)


def test_steps_that_are_not_scored_are_noticed_when_settings_are_made(
    artifacts: dict[str, str],
) -> None:
    for make in _adapters(artifacts["sequence"], process="min", unit_scale=True):
        with pytest.raises(ValueError, match=r"process is 'min', but .* has no step scores"):
            make()
    settings = _settings(artifacts["sequence"], process="min", score_prefixes=True)
    assert pickle.loads(pickle.dumps(settings)) == settings
    found = completion_rewards(PROMPTS, TEXTS, None, settings)
    for reward in found:
        assert reward.score is not None
        assert reward.process == reward.score.step_scores.min()
    # A scorer with prefixes and one without are two.
    [plain, *_] = completion_rewards(PROMPTS, TEXTS, None, _settings(artifacts["sequence"]))
    assert plain.score is not None
    assert len(plain.score.step_scores) == 0
    with pytest.raises(ValueError, match="score_prefixes is for reward models that give one"):
        _settings(artifacts["raw"], score_prefixes=True)
    with pytest.raises(ValueError, match="score_prefixes is 'yes', expected True or False"):
        _settings(artifacts["sequence"], score_prefixes="yes")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_for_openrlhf_lie_between_zero_and_one(
    kind: Kind, artifacts: dict[str, str]
) -> None:
    pytest.importorskip("torch")
    function = openrlhf.process_reward(
        artifacts[kind], outcome=False, unscorable=-5.0, backend="fake"
    )
    queries = [prompt + text for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    found = function([*queries, PROMPTS[0] + " "], [*PROMPTS, PROMPTS[0]], [None] * 4)
    assert found["rewards"].tolist() == pytest.approx([*_process(artifacts[kind]), -5.0])
    scores = found["scores"].tolist()
    assert all(0 < score < 1 for score in scores[:3])
    if kind == "signed":
        wanted = [(reward + 1) / 2 for reward in _process(artifacts[kind])]
        assert scores[:3] == pytest.approx(wanted)


def test_a_completion_that_cannot_be_scored_gets_the_lowest_reward(
    artifacts: dict[str, str],
) -> None:
    sample = ("x", " ", "4", {"question": "What is 2 + 2?"})
    own: dict[str, Any] = {"backend": "fake", "artifact": artifacts["signed"]}
    assert verl.compute_score(*sample, **own, beta=0.5)["score"] == -0.5
    assert verl.compute_score(*sample, **own, outcome=False)["score"] == -1.0
    assert verl.compute_score(*sample, **own, unit_scale=True)["score"] == 0.0
    own["artifact"] = artifacts["sequence"]
    assert verl.compute_score(*sample, **own, unit_scale=True)["score"] == 0.0
    assert verl.compute_score(*sample, **own, outcome=False, unscorable=-30)["score"] == -30
    with pytest.raises(ValueError, match=r"has no lowest 'reward'.*pass unscorable=NUMBER"):
        verl.compute_score(*sample, **own, outcome=False)
    with pytest.raises(ValueError, match="has no lowest 'reward'"):
        openrlhf.process_reward(artifacts["sequence"], outcome=False)


@pytest.mark.parametrize("kind", KINDS)
def test_trl_counts_steps_whether_or_not_they_are_scored(
    kind: Kind, artifacts: dict[str, str]
) -> None:
    metrics: dict[str, float] = {}
    function = trl.process_reward(artifacts[kind], backend="fake")
    rewards = function(prompts=PROMPTS, completions=TEXTS, log_metric=metrics.__setitem__)
    assert rewards == _process(artifacts[kind])
    assert metrics["process_reward/num_steps"] == pytest.approx(5 / 3)
    sample = ("x", TEXTS[0], "4", {"question": PROMPTS[0]})
    found = verl.compute_score(
        *sample, artifact=artifacts[kind], backend="fake", outcome=False, unscorable=0.0
    )
    assert found["num_steps"] == 2.0


def test_the_manifest_is_read_again_if_it_changes(tmp_path: Path) -> None:
    artifact = fake_artifact(tmp_path / "prm", manifest_of("raw"))
    _settings(str(artifact), process="min")
    (artifact / "prm.json").write_text(manifest_of("sequence").to_json(), encoding="utf-8")
    with pytest.raises(ValueError, match="has no step scores"):
        _settings(str(artifact), process="min")


def test_credits_of_steps_need_step_scores_and_take_any_numbers() -> None:
    with pytest.raises(ValueError, match="a reward model of whole sequences with score_prefixes"):
        step_credits([])
    raw = [-3.0, 4.5, -12.0]
    assert step_credits(raw, "mean").sum() == pytest.approx(np.mean(raw))
    assert step_credits(raw, "min", temperature=0.5).sum() == pytest.approx(-12.0)
    assert step_credits(raw, "progress").sum() == pytest.approx(-12.0)
