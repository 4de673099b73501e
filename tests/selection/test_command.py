from __future__ import annotations

from pathlib import Path

from run_rfprm import rfprm
from selection.selection_helpers import read_jsonl, traces, write_jsonl


def test_the_command_keeps_the_best_and_reports_what_it_did(
    tmp_path: Path, tiny_artifact: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*traces(12), "broken"])
    output, report = tmp_path / "out.jsonl", tmp_path / "report.html"
    command = ("select", source, "-o", output, "-a", tiny_artifact, "--top", 4, "--report", report)
    found = rfprm(*map(str, command))
    assert found.returncode == 3, found.stderr
    assert "4 of 12 scored traces" in found.stderr
    assert "8 outside the top" in found.stderr
    assert "row 13: not JSON" in found.stderr
    assert len(read_jsonl(output)) == 4
    assert report.is_file()

    more = ("--overwrite", "--group-by", "source", "--top-per-group", 1)
    again = rfprm(*map(str, (*command, *more)))
    assert "scores of 1 shards (1 of them from before)" in again.stderr
    assert len(read_jsonl(output)) == 3


def test_a_missing_rule_is_an_error_of_one_line(tmp_path: Path, tiny_artifact: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(2))
    found = rfprm("select", source, "-o", tmp_path / "out.jsonl", "-a", tiny_artifact)
    assert found.returncode == 1
    assert found.stderr.startswith("rfprm: ")
    assert "give at least one limit: top (--top), share" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_an_empty_input_gives_a_warning(tmp_path: Path, tiny_artifact: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["", ""])
    found = rfprm("select", source, "-o", tmp_path / "o.jsonl", "-a", tiny_artifact, "--top", "1")
    assert found.returncode == 0
    assert f"{source} is empty" in found.stderr


def test_workers_need_engine_ray(tmp_path: Path, tiny_artifact: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(2))
    found = rfprm(
        "select", source, "-o", tmp_path / "o.jsonl", "-a", tiny_artifact, "--top=1", "--workers=2"
    )
    assert found.returncode == 1
    assert "--engine ray and --workers N go together" in found.stderr
