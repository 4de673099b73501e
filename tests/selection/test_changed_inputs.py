"""Inputs that change during a run are noticed, in whatever way they change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import RfprmError
from rfprm_runtime.cli.score_file import score_file
from rfprm_runtime.errors import ArtifactError, SourceError
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.selection import Scoring, Selection, select_traces
from rfprm_runtime.selection.ray_workers import ShardWorker
from rfprm_runtime.traces.sources import open_source, read_traces
from selection.selection_helpers import traces, write_jsonl
from tiny_models import fake_scorer

Change = Callable[[Path], object]


def overwrite(path: Path) -> None:
    """Other rows of the same lengths, in place."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"I add.", b"I sub."))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(path.read_bytes().splitlines(keepends=True)[0])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copyfile(path, other)
    overwrite(other)
    other.replace(path)


def scorer_that_changes(source: Path, change: Change, at: int = 2) -> Scorer:
    """A scorer that calls ``change`` as it gets its batch number ``at``."""
    scorer, calls = fake_scorer(), [0]
    score_batch = scorer.score_batch

    def changed(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            change(source)
        return score_batch(*arguments, **options)

    scorer.score_batch = changed  # type: ignore[assignment,method-assign]
    return scorer


@pytest.mark.parametrize("change", [overwrite, truncate, replace])
def test_a_selection_notices_that_its_input_changed(tmp_path: Path, change: Change) -> None:
    source, output = write_jsonl(tmp_path / "in.jsonl", traces(40)), tmp_path / "out.jsonl"
    original = source.read_bytes()
    rule, scoring = Selection(top=30), Scoring(shard_rows=8)
    with scorer_that_changes(source, change) as scorer:
        with pytest.raises(SourceError, match=r"in\.jsonl changed during the run: rows \d+ to"):
            select_traces(scorer, source, output, rule, scoring=scoring)
        assert not output.exists()
        with pytest.raises(RfprmError, match=r"input\.\w+ was"):
            select_traces(scorer, source, output, rule, scoring=scoring)
        source.write_bytes(original)
        select_traces(scorer, source, output, rule, scoring=scoring)
    with fake_scorer() as scorer:
        select_traces(scorer, source, tmp_path / "whole.jsonl", rule, scoring=scoring)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_selection_from_a_table_notices_another_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{k: row[k] for k in ("question", "completion")} for row in traces(40)]
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), source)

    def other(path: Path) -> None:
        parquet.write_table(pyarrow.Table.from_pylist(rows[::-1]), path.with_name("new"))
        path.with_name("new").replace(path)

    with (
        scorer_that_changes(source, other) as scorer,
        pytest.raises(SourceError, match="changed during the run"),
    ):
        select_traces(scorer, source, output, Selection(top=9), scoring=Scoring(shard_rows=8))
    assert not output.exists()


def test_a_worker_reads_the_rows_that_the_run_began_with(
    tmp_path: Path, tiny_artifact: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(4))
    shard = open_source(str(source)).plan(2).shards[1]
    worker = ShardWorker(str(tiny_artifact), str(source), Scoring())
    overwrite(source)
    assert "changed during the run" in worker._answer(shard)["error"]
    with pytest.raises(ArtifactError, match="was replaced during the run"):
        ShardWorker(str(tiny_artifact), str(source), Scoring(), "0" * 64)


def test_an_artifact_that_is_replaced_before_it_is_loaded_is_not_used(
    tmp_path: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    source = write_jsonl(tmp_path / "in.jsonl", traces(4))
    load = Scorer.load

    def replaced(folder: Any, **options: Any) -> Scorer:
        manifest = json.loads((artifact / "prm.json").read_text())
        (artifact / "prm.json").write_text(json.dumps({**manifest, "alpha": 0.25}))
        return load(folder, **options)

    monkeypatch.setattr(Scorer, "load", replaced)
    with pytest.raises(ArtifactError, match="was replaced during the run"):
        select_traces(artifact, source, tmp_path / "out.jsonl", Selection(top=1))
    assert not list((tmp_path / "out.jsonl.work").glob("shard-*"))


@pytest.mark.parametrize("change", [overwrite, append, truncate])
def test_scoring_notices_that_its_input_changed(tmp_path: Path, change: Change) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(600))
    with (
        scorer_that_changes(source, change) as scorer,
        pytest.raises(SourceError, match=r"in\.jsonl changed while it was read"),
    ):
        score_file(scorer, source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_scoring_goes_on_with_the_file_it_opened(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(600))
    with scorer_that_changes(source, replace) as scorer:
        score_file(scorer, source, tmp_path / "out.jsonl")
    assert "I sub." not in (tmp_path / "out.jsonl").read_text()


def test_every_reader_of_records_notices(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(300))
    records = read_traces(str(source))
    next(records)
    append(source)
    with pytest.raises(SourceError, match="changed while it was read"):
        list(records)
