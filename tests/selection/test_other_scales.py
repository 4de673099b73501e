"""Selections by PRMs whose scores are no probabilities."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rfprm_runtime import RfprmError, Scorer
from rfprm_runtime.cli.select import select
from rfprm_runtime.selection import (
    OutputOptions,
    Scoring,
    Selection,
    SelectionSummary,
    select_traces,
)
from rfprm_runtime.selection.ray_workers import ShardWorker
from rfprm_runtime.selection.scores import ShardScores
from rfprm_runtime.traces.sources import open_source
from rfprm_runtime.view.view_files import view_files
from selection.selection_helpers import read_jsonl, traces, write_jsonl
from tiny_models import KINDS, Kind, fake_artifact, manifest_of, scorer_of


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scales")
    return {kind: fake_artifact(folder / kind, manifest_of(kind)) for kind in KINDS}


def _select(
    artifact: Path | Scorer,
    folder: Path,
    *,
    score_prefixes: bool = False,
    options: OutputOptions | None = None,
    **rule: Any,
) -> SelectionSummary:
    source = write_jsonl(folder / "in.jsonl", traces(12))
    scoring = Scoring(backend="fake", score_prefixes=score_prefixes)
    output = folder / "out.jsonl"
    rule = rule or {"top": 5}
    return select_traces(
        artifact, source, output, Selection(**rule), scoring=scoring, options=options
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_are_chosen_and_can_be_viewed(
    kind: Kind, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    options = OutputOptions(order="rank", report=tmp_path / "report.html")
    summary = _select(artifacts[kind], tmp_path, options=options)
    assert (summary.num_scored, summary.num_chosen, summary.num_failed) == (12, 5, 0)
    rows = read_jsonl(tmp_path / "out.jsonl")
    rewards = [row["selection_score"] for row in rows]
    assert rewards == sorted(rewards, reverse=True) == [row["reward"] for row in rows]
    assert {len(row["step_scores"]) for row in rows} == ({0} if kind == "sequence" else {2})
    assert view_files([tmp_path / "out.jsonl"], tmp_path / "view.html").num_shown == 5
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "colours run from -" in text
    assert ("with the score of each step" in text) == (kind != "sequence")
    assert ("rewards from -1 to 1" if kind == "signed" else "rewards without bounds") in text
    assert "nan" not in text


def test_prefix_scores_are_made_when_asked_for_and_belong_to_the_folder_of_scores(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    _select(artifacts["sequence"], tmp_path, score_prefixes=True, top=12, score="last")
    with scorer_of("sequence", score_prefixes=True) as scorer:
        for row in read_jsonl(tmp_path / "out.jsonl"):
            score = scorer.score_batch([(row["question"], row["completion"])])[0]
            assert row["step_scores"] == score.step_scores.tolist()
            assert row["selection_score"] == float(score.step_scores[-1])
            assert row["reward"] == score.trajectory_score
    with pytest.raises(RfprmError, match=r"scoring\.score_prefixes was True, is None"):
        _select(artifacts["sequence"], tmp_path, top=3)
    # A scorer that was loaded so has the same scores, and reuses them.
    with Scorer.load(artifacts["sequence"], backend="fake", score_prefixes=True) as scorer:
        assert _select(scorer, tmp_path, top=3).num_shards_reused == 1


def test_a_scorer_without_prefixes_is_not_asked_for_them(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    with (
        Scorer.load(artifacts["sequence"], backend="fake") as scorer,
        pytest.raises(ValueError, match="the scorer was loaded without score_prefixes"),
    ):
        _select(scorer, tmp_path, score_prefixes=True)
    with pytest.raises(ValueError, match="'tiny' has step scores of its own"):
        _select(artifacts["raw"], tmp_path, score_prefixes=True)
    assert not (tmp_path / "out.jsonl.work").exists()


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("sequence", {"score": "min"}, "score .--score. is 'min', but .* has no step scores"),
        ("sequence", {"score": "product"}, "has no step scores"),
        ("raw", {"score": "product"}, "step scores outside .0, 1.; a product needs"),
        ("signed", {"score": "trajectory"}, "has no trajectory score"),
        ("signed", {"threshold": 1.25}, r"threshold .*is 1.25, .*\[-1, 1\], so nothing passes"),
        ("signed", {"threshold": -2, "score": "min"}, "so everything passes"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_before_scoring(
    kind: Kind,
    rule: dict[str, Any],
    message: str,
    artifacts: dict[str, Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        _select(artifacts[kind], tmp_path, **{"top": 3, **rule})
    assert not (tmp_path / "out.jsonl.work").exists()


@pytest.mark.parametrize(("kind", "threshold"), [("raw", -1.5), ("sequence", 0.5), ("signed", 0)])
def test_thresholds_are_in_the_unit_of_the_scores(
    kind: Kind, threshold: float, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    _select(artifacts[kind], tmp_path, top=12)
    rewards = [row["reward"] for row in read_jsonl(tmp_path / "out.jsonl")]
    kept = _select(artifacts[kind], tmp_path, threshold=threshold).num_chosen
    assert kept == sum(reward >= threshold for reward in rewards)
    assert 0 < kept < 12


def test_a_threshold_of_residuals_has_no_bounds(artifacts: dict[str, Path], tmp_path: Path) -> None:
    rule = {"threshold": -1.5, "length_control": "residual"}
    assert _select(artifacts["signed"], tmp_path, **rule).num_scored == 12


def test_rows_without_step_scores_fit_parquet(artifacts: dict[str, Path], tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(traces(6)), tmp_path / "in.parquet")
    scoring, rule = Scoring(backend="fake"), Selection(top=6)
    output = tmp_path / "out.parquet"
    select_traces(artifacts["sequence"], tmp_path / "in.parquet", output, rule, scoring=scoring)
    assert pq.read_table(output)["step_scores"].to_pylist() == [[]] * 6


def test_workers_score_prefixes_too(artifacts: dict[str, Path], tmp_path: Path) -> None:
    import pyarrow as pa

    source = write_jsonl(tmp_path / "in.jsonl", traces(2))
    scoring = Scoring(backend="fake", score_prefixes=True)
    worker = ShardWorker(str(artifacts["sequence"]), str(source), scoring)
    with closing(open_source(str(source))) as opened:
        shards = [asdict(shard) for shard in opened.plan(2).shards]
    [found] = worker(pa.Table.from_pylist(shards)).to_pylist()
    assert found["error"] is None
    scores = ShardScores.from_bytes(found["scores"])
    assert scores.num_steps.tolist() == [2, 2]


def test_the_command_takes_score_prefixes(artifacts: dict[str, Path], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(3))
    output = tmp_path / "out.jsonl"
    chosen = {"artifact": artifacts["sequence"], "backend": "fake", "top": 2}
    select(str(source), output, **chosen, score_prefixes=True, score="min")
    assert all(len(row["step_scores"]) == 2 for row in read_jsonl(output))
