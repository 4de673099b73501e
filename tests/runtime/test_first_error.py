"""Where scores say that a trace goes wrong first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_runtime import InvalidArgumentError, ManifestError, TrajectoryScore
from rfprm_runtime.artifact.manifest import (
    Calibration,
    FirstErrorRule,
    Manifest,
    Readout,
    parse_manifest,
)
from rfprm_runtime.artifact.migrations import migrate
from rfprm_runtime.cli.score_file import score_file
from rfprm_runtime.scores.first_error import first_error, rule_of
from tiny_models import KINDS, byte_tokenizer, fake_scorer, manifest_of, tiny_manifest


def _score(*steps: float) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=np.array(steps, np.float32), trajectory_score=0.5, reward=0.0, num_tokens=1
    )


def test_the_first_low_step_is_wrong() -> None:
    rule = FirstErrorRule(wrong_below=0.7)
    assert first_error(_score(0.9, 0.6, 0.1), rule) == 1
    assert first_error(_score(0.9, 0.7, 0.7), rule) is None  # at the threshold is not below it
    assert first_error(_score(0.1), rule) == 0


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.floats(0, 1, width=32))
def test_no_step_before_the_first_error_is_low(scores: list[float], threshold: float) -> None:
    found = first_error(_score(*scores), FirstErrorRule(wrong_below=threshold))
    before = scores if found is None else scores[:found]
    assert all(score >= threshold for score in before)
    assert found is None or scores[found] < threshold


def test_without_a_rule_a_step_is_wrong_if_that_is_more_likely() -> None:
    assert rule_of(tiny_manifest(byte_tokenizer())) == FirstErrorRule(wrong_below=0.5)
    for kind in KINDS:
        assert rule_of(manifest_of(kind)) == FirstErrorRule(wrong_below=0.0)
    calibrated = Readout(transform="none", positive=0, calibration=Calibration(temperature=2))
    found = tiny_manifest(byte_tokenizer(), step_readout=calibrated)
    assert rule_of(found) == FirstErrorRule(wrong_below=0.5)


def test_a_scorer_uses_the_rule_of_its_prm() -> None:
    fitted = FirstErrorRule(wrong_below=0.9, fitted_on="some traces")
    with fake_scorer() as plain, fake_scorer(first_error=fitted) as scorer:
        score = _score(0.95, 0.6)
        assert plain.first_error(score) is None
        assert scorer.first_error(score) == 1
        with pytest.raises(InvalidArgumentError, match="no step scores to find an error by"):
            scorer.first_error(_score())


def test_readers_that_do_not_know_rules_can_drop_them() -> None:
    fitted = FirstErrorRule(wrong_below=0.7)
    for manifest in (tiny_manifest(byte_tokenizer()), manifest_of("raw", first_error=fitted)):
        content = json.loads(manifest.to_json())
        assert parse_manifest(content) == manifest
        older = migrate(content, known=set(Manifest.model_fields) - {"first_error"}, origin="it")
        assert parse_manifest(older) == manifest.model_copy(update={"first_error": None})


def test_a_rule_that_cannot_be_is_refused() -> None:
    fields = tiny_manifest(byte_tokenizer()).model_dump()
    for rule, message in (
        ({"wrong_below": 1.5}, r"wrong_below 1.5, expected a score in \[0, 1\]"),
        ({"wrong_below": float("nan")}, "finite"),
    ):
        with pytest.raises(ManifestError, match=message):
            Manifest(**{**fields, "first_error": rule})
    signed = manifest_of("signed", first_error={"wrong_below": -0.5})
    assert rule_of(signed).wrong_below == -0.5


def test_rfprm_score_writes_it_where_it_is_asked_for(tmp_path: Path) -> None:
    traces, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows: list[dict[str, Any]] = [
        {"question": "q?", "steps": ["a", "b", "c"]},
        {"question": "q?", "completion": "a\n\nb"},
    ]
    rows.append({**rows[0], "first_error": 2})
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fake_scorer() as scorer:
        score_file(scorer, traces, output)
        assert "first_error" not in json.loads(output.read_text().splitlines()[0])
        summary = score_file(scorer, traces, output, first_error=True, prefix="prm_")
        found = [json.loads(line) for line in output.read_text().splitlines()]
        for row in found:
            score = scorer.score_batch([row])[0]
            assert row["prm_first_error"] == scorer.first_error(score)
        assert found[2]["first_error"] == 2
        assert summary.num_failed == 0
        summary = score_file(scorer, traces, output, first_error=True)
        assert summary.num_failed == 1
        assert "already has the field 'first_error'" in summary.first_errors[0]
