"""A killed selection resumes, and no finished shard is scored twice."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import RfprmError, Windows
from rfprm_runtime.selection import OutputOptions, Scoring, Selection, select_traces
from rfprm_runtime.selection.scores import ShardScores
from selection.selection_helpers import logging_scorer, read_jsonl, traces, write_jsonl
from tiny_models import fake_scorer

TESTS = Path(__file__).resolve().parent.parent


def start(source: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("selection_helpers.py")
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, str(script), str(source), str(output), str(log)],
        env={**os.environ, "PYTHONPATH": paths},
    )


def finished(work: Path) -> set[int]:
    return {int(path.stem.removeprefix("shard-")) for path in work.glob("shard-*.npz")}


def kill_after(process: subprocess.Popen[bytes], work: Path, num_shards: int) -> set[int]:
    """Send SIGKILL once ``num_shards`` are finished; return the finished ones."""
    while len(finished(work)) < num_shards and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    return finished(work)


def test_a_killed_run_resumes_without_scoring_finished_shards_again(tmp_path: Path) -> None:
    rows = traces(120)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    output, log, work = (tmp_path / n for n in ("out.jsonl", "log", "out.jsonl.work"))

    done: set[int] = set()
    for num_shards in (2, 7):
        now = kill_after(start(source, output, log), work, num_shards)
        assert done < now < set(range(15))
        assert not output.exists()
        for path in work.glob("shard-*.npz"):
            assert len(ShardScores.from_bytes(path.read_bytes())) == 8
        done = now
    assert start(source, output, log).wait() == 0

    asked = Counter(log.read_text().splitlines())
    assert set(asked) == {row["question"] for row in rows}
    for index in done:
        assert {asked[row["question"]] for row in rows[8 * index : 8 * index + 8]} == {1}
    whole = tmp_path / "whole.jsonl"
    with fake_scorer() as scorer:
        select_traces(scorer, source, whole, Selection(top=20))
    assert output.read_bytes() == whole.read_bytes()
    assert not [path for path in (*tmp_path.iterdir(), *work.iterdir()) if "partial" in path.name]


def test_files_that_a_kill_left_half_written_are_removed(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(5))
    work = tmp_path / "out.jsonl.work"
    with fake_scorer() as scorer:
        select_traces(scorer, source, tmp_path / "out.jsonl", Selection(top=2))
        # No process has an ID above the system's limit.
        (work / ".shard-000001.npz.partial-4194999").write_bytes(b"half")
        (tmp_path / ".out.jsonl.partial-4194999").write_bytes(b"half")
        (tmp_path / ".other.jsonl.partial-4194999").write_bytes(b"not ours")
        select_traces(scorer, source, tmp_path / "out.jsonl", Selection(top=2))
    left = [path.name for path in (*tmp_path.iterdir(), *work.iterdir()) if "partial" in path.name]
    assert left == [".other.jsonl.partial-4194999"]


def test_two_runs_cannot_share_a_work_folder(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(5))
    output = tmp_path / "out.jsonl"
    with fake_scorer() as scorer:
        select_traces(scorer, source, output, Selection(top=2))
        before = output.read_bytes()
        folder = os.open(tmp_path / "out.jsonl.work", os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)  # as another process holds it
        with pytest.raises(RfprmError, match=r"another run is using .*out\.jsonl\.work.*--work"):
            select_traces(scorer, source, output, Selection(top=1))
        assert output.read_bytes() == before
        os.close(folder)
        select_traces(scorer, source, output, Selection(top=1))
    assert output.read_bytes() != before


def test_another_rule_needs_no_scores(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(30))
    output, log = tmp_path / "out.jsonl", tmp_path / "log"
    with logging_scorer(log) as scorer:
        select_traces(scorer, source, output, Selection(top=5))
        rule = Selection(top_per_group=2, group_by="source", score="min")
        summary = select_traces(scorer, source, output, rule)
    assert len(log.read_text().splitlines()) == 30
    assert (summary.num_shards, summary.num_shards_reused) == (1, 1)
    assert Counter(row["source"] for row in read_jsonl(output)) == {"web": 2, "book": 2, "exam": 2}


def test_an_artifact_is_not_loaded_if_nothing_is_left_to_score(
    tmp_path: Path, tiny_artifact: Path
) -> None:
    source, output = write_jsonl(tmp_path / "in.jsonl", traces(3)), tmp_path / "out.jsonl"
    artifact = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, artifact)
    select_traces(artifact, source, output, Selection(top=1))
    (artifact / "model.onnx").unlink()
    assert select_traces(artifact, source, output, Selection(top=2)).num_chosen == 2


def test_the_work_folder_can_be_dropped(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(3))
    options = OutputOptions(keep_work=False)
    with fake_scorer() as scorer:
        select_traces(scorer, source, tmp_path / "out.jsonl", Selection(top=1), options=options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rows": 4}, "input.num_rows was 3, is 4"),
        ({"answer": "7"}, "input.sha256 was "),
        ({"scoring": Scoring(split="lines")}, "scoring.split was blank_lines, is lines"),
        ({"scoring": Scoring(overflow="window")}, "scoring.overflow was error, is window"),
        ({"scoring": Scoring(shard_rows=2)}, "scoring.shard_rows was 256, is 2"),
        ({"model": {"alpha": 0.5}}, "artifact.manifest_sha256 was "),
        ({"model": {"name": "other"}}, "artifact.name was tiny, is other"),
    ],
)
def test_scores_of_something_else_are_refused_with_the_difference(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_jsonl(source, traces(3))
    with fake_scorer() as scorer:
        select_traces(scorer, source, output, Selection(top=1))
    before = output.read_bytes()
    rows = traces(change.get("rows", 3))
    rows[0]["completion"] = change.get("answer", rows[0]["completion"])
    write_jsonl(source, rows)
    with (
        fake_scorer(**change.get("model", {})) as scorer,
        pytest.raises(RfprmError) as caught,
    ):
        select_traces(scorer, source, output, Selection(top=1), scoring=change.get("scoring"))
    assert named in str(caught.value)
    assert "choose another --work folder, or remove this one" in str(caught.value)
    assert output.read_bytes() == before


def test_scores_of_other_windows_are_not_reused(tmp_path: Path) -> None:
    source, output = write_jsonl(tmp_path / "in.jsonl", traces(3)), tmp_path / "out.jsonl"
    with fake_scorer() as scorer:
        for same in ("window", Windows(0.5)):
            scoring = Scoring(overflow=same)
            select_traces(scorer, source, output, Selection(top=1), scoring=scoring)
        scoring = Scoring(overflow=Windows(0.25))
        with pytest.raises(RfprmError, match=r"scoring.window_context was 0.5, is 0.25"):
            select_traces(scorer, source, output, Selection(top=1), scoring=scoring)
    assert "windowed_from" in read_jsonl(output)[0]


def test_a_file_is_not_a_work_folder(tmp_path: Path) -> None:
    source, work = write_jsonl(tmp_path / "in.jsonl", traces(3)), tmp_path / "mine"
    work.write_text("mine")
    with fake_scorer() as scorer, pytest.raises(RfprmError, match=r"mine is a file.*--work"):
        select_traces(
            scorer,
            source,
            tmp_path / "out.jsonl",
            Selection(top=1),
            options=OutputOptions(work=work),
        )


def test_a_folder_with_other_files_is_not_a_work_folder(tmp_path: Path) -> None:
    source, work = write_jsonl(tmp_path / "in.jsonl", traces(3)), tmp_path / "mine"
    work.mkdir()
    (work / "thesis.txt").write_text("mine")
    with fake_scorer() as scorer, pytest.raises(RfprmError, match="holds other files"):
        select_traces(
            scorer,
            source,
            tmp_path / "out.jsonl",
            Selection(top=1),
            options=OutputOptions(work=work),
        )
    assert (work / "thesis.txt").read_text() == "mine"


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    source, output = write_jsonl(tmp_path / "in.jsonl", traces(3)), tmp_path / "out.jsonl"
    with fake_scorer() as scorer:
        select_traces(scorer, source, output, Selection(top=1))
        shard = tmp_path / "out.jsonl.work" / "shard-000000.npz"
        shard.write_bytes(shard.read_bytes()[:100])
        with pytest.raises(RfprmError, match=r"shard-000000\.npz is damaged .*; remove it"):
            select_traces(scorer, source, output, Selection(top=1))
        shard.unlink()
        assert select_traces(scorer, source, output, Selection(top=1)).num_chosen == 1


def test_the_manifest_records_what_the_scores_come_from(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(3))
    with fake_scorer() as scorer:
        select_traces(scorer, source, tmp_path / "out.jsonl", Selection(top=1))
    manifest = json.loads((tmp_path / "out.jsonl.work" / "manifest.json").read_text())
    assert manifest["input"]["num_bytes"] == source.stat().st_size
    assert manifest["scoring"]["backend"] == "FakeBackend"
