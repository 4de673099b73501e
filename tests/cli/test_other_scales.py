"""Commands with PRMs whose scores are no probabilities."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rfprm_runtime import Trajectory
from rfprm_runtime.cli.printing import print_manifest, print_score
from rfprm_runtime.cli.rerank import rerank
from rfprm_runtime.cli.score import score
from tiny_models import KINDS, Kind, fake_artifact, manifest_of, scorer_of

TRACE = Trajectory(question="What is 2 + 2?", steps=("2 + 2 = 4.", "So 4."), response=("4",))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> str:
    texts = ["2 + 2 = 4.\n\nThe answer is 4.", "2 + 2 = 5.\n\nThe answer is 5."]
    rows = [{"question": TRACE.question, "completion": text} for text in texts]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_scored_and_ranked(kind: Kind, source: str, tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "artifact": fake_artifact(tmp_path / "prm", manifest_of(kind)),
        "backend": "fake",
        "quiet": True,
    }
    score(source, tmp_path / "scored.jsonl", **own)
    num_steps = 0 if kind == "sequence" else 2
    scored = _rows(tmp_path / "scored.jsonl")
    assert [len(row["step_scores"]) for row in scored] == [num_steps] * 2
    rerank(source, tmp_path / "ranked.jsonl", **own, method="weighted_vote")
    ranked = _rows(tmp_path / "ranked.jsonl")
    assert [row["selection_score"] for row in ranked] == sorted(
        (row["reward"] for row in scored), reverse=True
    )
    assert all(row["votes"] > 0 for row in ranked)


def test_prefixes_are_scored_when_asked_for(source: str, tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "artifact": fake_artifact(tmp_path / "prm", manifest_of("sequence")),
        "backend": "fake",
        "quiet": True,
    }
    with pytest.raises(ValueError, match=r"aggregation is 'last', .* \(--score-prefixes\)"):
        rerank(source, tmp_path / "ranked.jsonl", **own, score="last")
    rerank(source, tmp_path / "ranked.jsonl", **own, score="last", score_prefixes=True)
    for row in _rows(tmp_path / "ranked.jsonl"):
        assert row["selection_score"] == row["step_scores"][-1]
    score(source, tmp_path / "scored.jsonl", **own, score_prefixes=True)
    assert [len(row["step_scores"]) for row in _rows(tmp_path / "scored.jsonl")] == [2, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_score_can_be_printed(kind: Kind) -> None:
    with scorer_of(kind) as scorer:
        [found] = scorer.score_batch([TRACE])
    console = Console(width=200, record=True, force_terminal=True, file=io.StringIO())
    print_score(console, TRACE, found)
    text = console.export_text()
    assert f"reward {found.reward:.3f}" in text
    assert "So 4." in text
    # A single score is neither low nor high, and these of the third lie in [0, 1].
    assert ("colours run from -" in text) == (kind == "raw")


@pytest.mark.parametrize(
    ("kind", "reward"),
    [
        ("sequence", "trajectory score, without bounds"),
        ("raw", "mean step score + α · trajectory score, without bounds"),
        ("signed", "mean step score, from -1 to 1"),
    ],
)
def test_info_says_what_a_reward_can_be(
    kind: Kind, reward: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_manifest(Console(width=200), manifest_of(kind), "0" * 64)
    printed = capsys.readouterr().out
    assert reward in printed
    assert ("α (Eq. 11)" in printed) == (kind == "raw")
