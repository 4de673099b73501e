"""Scores beside published ones; the models here are random, so they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("transformers")

from published_models import LLAMA_CHAT, QWEN_CHAT, llama_tokenizer, qwen_tokenizer, save_model
from rfprm_export.artifact_writer import export_artifact
from rfprm_export.published_scores import (
    PUBLISHED_SCORES,
    Comparison,
    PublishedScore,
    published_scores_of,
)
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.types import Trajectory
from run_rfprm import rfprm


def test_every_published_score_is_of_a_trace() -> None:
    for one in PUBLISHED_SCORES:
        steps = len(one.step_scores)
        assert steps in (0, len(one.trajectory.steps))
        assert one.expected
        assert one.model.count("/") == 1
        owner, _, name = one.model.partition("/")
        for called in (name, name.upper(), f"models--{owner}--{name}", f"{owner}_{name}"):
            assert one in published_scores_of(called)
        assert one in published_scores_of(name, one.model)
        assert not published_scores_of(name, f"another/{name}")
    assert not published_scores_of("unheard-of")


def test_what_agrees() -> None:
    trace = Trajectory(question="q", steps=["a", "b"])
    published = PublishedScore("m", "a card", trace, step_scores=(0.5, 0.7), tolerance=0.02)
    assert Comparison(published, (0.51, 0.69)).agrees
    assert not Comparison(published, (0.51, 0.73)).agrees
    assert not Comparison(published, (0.5,)).agrees
    assert not Comparison(published, (0.5, float("nan"))).agrees


def test_another_model_under_that_name_is_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen-2.5-7B-FoVer-PRM"
    save_model(folder, "Qwen2ForCausalLM", qwen_tokenizer(), chat=QWEN_CHAT)
    done = rfprm("check", folder)
    assert done.returncode == 1
    assert "0.9100 0.9998 0.0123  (README of psunlpgroup/FoVer)" in done.stdout
    assert "DIFFERS: up to 0." in done.stdout
    assert "does not give the scores that its authors published" in done.stderr


def test_an_artifact_is_checked_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "Skywork-Reward-V2-Llama-3.1-8B"
    save_model(
        folder, "LlamaForSequenceClassification", llama_tokenizer(), chat=LLAMA_CHAT, num_labels=1
    )
    artifact = tmp_path / "artifact"
    export_artifact(folder, artifact, precision="int16", verify=False)
    done = rfprm("check", artifact)
    assert done.returncode == 1
    [one, _] = published_scores_of(folder.name)
    with Scorer.load(artifact) as scorer:
        found = scorer.score_batch([one.trajectory])[0].reward
    assert f"{found:.4f}  DIFFERS" in done.stdout
    assert np.isfinite(found)


def test_a_model_of_which_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # nothing else is read
    done = rfprm("check", tmp_path)
    assert done.returncode == 1
    assert f"no published scores of {tmp_path.name} are known here" in done.stderr


def test_raw_rewards_are_verified_by_how_far_they_reach(tmp_path: Path) -> None:
    """A difference of 1e-4 is much for scores that differ by 0.01 and nothing for those of 100."""
    folder = tmp_path / "model"
    save_model(
        folder, "Qwen3ForSequenceClassification", qwen_tokenizer(), chat=QWEN_CHAT, num_labels=1
    )
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] *= 50
    save_file(weights, folder / "model.safetensors")
    parity = export_artifact(folder, tmp_path / "artifact").parity
    assert parity is not None
    assert parity.unit > 10
    assert 0 < parity.max_difference < 1e-5
