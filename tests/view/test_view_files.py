from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import RfprmError
from rfprm_runtime.ground.tint import HIGH, LOW
from rfprm_runtime.view import view_files as module
from rfprm_runtime.view.page import FOLDER
from rfprm_runtime.view.view_files import view_files
from run_rfprm import rfprm
from view.scored_files import HOSTILE_STEPS, hostile_row, row, write_rows


class _Page(HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def texts_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag and text.strip()]

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.texts_of("script")[0])
        return found


def test_the_page_holds_every_trace_with_its_scores(tmp_path: Path) -> None:
    rows = [row(2, source="a", is_correct=True, id=1), row(3, response=["4"], windowed_from=1)]
    scored = write_rows(tmp_path / "scored.jsonl", rows)
    summary = view_files([scored], tmp_path / "view.html")
    assert (summary.num_shown, summary.num_bad, summary.notes) == (2, 0, [])
    first, second = _Page(tmp_path / "view.html").data["traces"]
    assert first["steps"] == rows[0]["steps"]
    assert first["step_scores"] == rows[0]["step_scores"]
    assert (first["row"], first["source"], first["outcome"]) == (1, "a", True)
    assert (second["response"], second["windowed_from"]) == (["4"], 1)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ({"first_error": 1}, (1, True)),
        ({"first_error": 0}, (0, True)),
        ({"first_error": None}, (None, True)),
        ({}, (None, False)),
    ],
)
def test_the_page_tells_where_a_trace_goes_wrong_first(
    written: dict[str, Any], shown: tuple[int | None, bool], tmp_path: Path
) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row(2, **written)])
    view_files([scored], tmp_path / "view.html")
    (trace,) = _Page(tmp_path / "view.html").data["traces"]
    assert (trace["first_error"], trace["error_sought"]) == shown
    assert trace["other_fields"] == ""


@pytest.mark.parametrize("value", [2, -1, True, "none", 0.0])
def test_a_first_error_that_scoring_does_not_write_is_another_field(
    value: Any, tmp_path: Path
) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row(2, first_error=value)])
    view_files([scored], tmp_path / "view.html")
    (trace,) = _Page(tmp_path / "view.html").data["traces"]
    assert (trace["first_error"], trace["error_sought"]) == (None, False)
    assert "first_error" in trace["other_fields"]


def test_paths_may_be_strings_and_the_page_folder_is_created(tmp_path: Path) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row()])
    page = tmp_path / "new" / "view.html"
    assert view_files([str(scored)], str(page)).num_shown == 1
    assert page.is_file()


@pytest.mark.parametrize("scored", [[], "scored.jsonl", Path("scored.jsonl")])
def test_anything_but_a_list_of_files_is_refused(scored: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a list of one or more files"):
        view_files(scored, tmp_path / "view.html")


def test_no_text_of_a_trace_becomes_markup(tmp_path: Path) -> None:
    scored = write_rows(tmp_path / "<script>alert(1)<!--.jsonl", [hostile_row()])
    view_files([scored], tmp_path / "hostile.html")
    scored = write_rows(tmp_path / "plain.jsonl", [row()])
    view_files([scored], tmp_path / "plain.html")
    hostile, plain = _Page(tmp_path / "hostile.html"), _Page(tmp_path / "plain.html")
    assert hostile.tags == plain.tags
    assert hostile.data["traces"][0]["steps"] == HOSTILE_STEPS
    assert r"half a pair: \ud800" in hostile.data["traces"][0]["other_fields"]


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    view_files([write_rows(tmp_path / "scored.jsonl", [row()])], tmp_path / "view.html")
    page = _Page(tmp_path / "view.html")
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not any({"src", "href", "style"} & set(attributes) for _, attributes in page.tags)
    [policy] = [meta["content"] or "" for meta in page.attributes("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    for text in (page.texts_of("script")[1], page.texts_of("style")[0]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize(
    ("scores", "scale", "legend"),
    [
        ([[0.2, 0.4], [0.3, 0.9]], [0, 1], ["score 0", "1"]),
        # What probabilities add up to may round.
        ([[0.2, 1.0000001], [0.0, 1.0]], [0, 1], ["score 0", "1"]),
        ([[0.2, 0.4], [-0.25, 0.9]], [-0.25, 0.9], ["lowest -0.250", "highest 0.900"]),
        ([[3, 12.5], [7.25, 9.0]], [3, 12.5], ["lowest 3.000", "highest 12.500"]),
        ([[-1e308, 1e308], [0, 0]], [-1e308, 1e308], ["lowest -1.000e+308", "highest 1.000e+308"]),
    ],
)
def test_colours_of_scores_that_are_no_probabilities_run_from_lowest_to_highest(
    scores: list[list[float]], scale: list[float], legend: list[str], tmp_path: Path
) -> None:
    rows = [row(step_scores=of_row, trajectory_score=of_row[0]) for of_row in scores]
    view_files([write_rows(tmp_path / "scored.jsonl", rows)], tmp_path / "view.html")
    page = _Page(tmp_path / "view.html")
    assert page.data["scale"] == scale
    assert page.texts_of("span")[:2] == legend
    [said] = [found for found in page.attributes("div") if found.get("class") == "legend"]
    expected = "Scores go from 0" if scale == [0, 1] else "Not all scores lie between 0 and 1"
    assert (said["title"] or "").startswith(expected)


def test_the_trajectory_score_counts_for_the_colours(tmp_path: Path) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row(trajectory_score=-4.5)])
    view_files([scored], tmp_path / "view.html")
    assert _Page(tmp_path / "view.html").data["scale"] == [-4.5, 1.0]


def test_bad_rows_are_listed_in_the_page(tmp_path: Path) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row(), row(step_scores=[0.5]), row()])
    summary = view_files([scored], tmp_path / "view.html")
    assert (summary.num_shown, summary.num_bad) == (2, 1)
    data = _Page(tmp_path / "view.html").data
    [bad] = data["bad_rows"]
    assert bad["place"] == "row 2"
    assert bad["reason"].startswith("1 step scores for 2 steps")
    assert data["num_bad_rows"] == 1


def test_rows_left_out_by_the_limit_are_noted(tmp_path: Path) -> None:
    bad = row(step_scores=None)
    scored = write_rows(tmp_path / "scored.jsonl", [bad, *[row()] * 4, bad])
    summary = view_files([scored], tmp_path / "view.html", limit=3)
    assert (summary.num_shown, summary.num_bad) == (3, 1)
    note = "scored.jsonl: only the first 3 traces are shown; 2 more rows are left out (--limit)"
    assert summary.notes == [note]
    assert _Page(tmp_path / "view.html").data["notes"] == [note]
    assert view_files([scored], tmp_path / "view.html", limit=4).notes != []
    assert view_files([scored], tmp_path / "view.html", limit=5).notes == []


def test_files_of_the_same_name_are_shown_with_their_folders(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(write_rows(tmp_path / name / "scored.jsonl", [row(), row(reward=None)]))
    view_files(paths, tmp_path / "view.html")
    data = _Page(tmp_path / "view.html").data
    assert data["files"] == ["a/scored.jsonl", "b/scored.jsonl"]
    assert [trace["file"] for trace in data["traces"]] == [0, 1]
    assert data["bad_rows"][1]["place"] == "b/scored.jsonl, row 2"
    with pytest.raises(RfprmError, match="the same file is named twice"):
        view_files([paths[0], paths[0]], tmp_path / "view.html")


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "view.html"
    page.write_text("before", encoding="utf-8")
    empty = write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(RfprmError, match=r"empty\.jsonl has no rows"):
        view_files([empty], page)
    unscored = write_rows(tmp_path / "unscored.jsonl", [{"question": "q", "steps": ["a"]}] * 2)
    with pytest.raises(RfprmError, match=r"none of the 2 rows .* row 1: no field 'step_scores'"):
        view_files([unscored], page)
    scored = write_rows(tmp_path / "scored.jsonl", [row()] * 3)
    with pytest.raises(RfprmError, match="is the input itself"):
        view_files([scored], scored)
    with pytest.raises(ValueError, match="limit is 0"):
        view_files([scored], page, limit=0)
    monkeypatch.setattr(module, "MAX_CHARACTERS", 200)
    with pytest.raises(RfprmError, match="show fewer: --limit 1"):
        view_files([scored], page)
    assert page.read_text(encoding="utf-8") == "before"
    assert not list(tmp_path.glob(".*partial*"))


def test_page_and_notebook_have_the_same_colours() -> None:
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    for name, color in {"low": LOW, "high": HIGH}.items():
        assert f"--{name}: {' '.join(map(str, color))};" in style


def test_the_command_reports_rows_it_could_not_show(tmp_path: Path) -> None:
    rows = [row(), row(reward=None), row()]
    scored = write_rows(tmp_path / "scored.jsonl", rows)
    found = rfprm("view", scored, "-o", tmp_path / "view.html", "--limit", 1)
    assert found.returncode == 0, found.stderr
    assert "1 trace →" in found.stderr
    assert "2 more rows are left out" in found.stderr
    found = rfprm("view", scored, "-o", tmp_path / "view.html", "--overwrite")
    assert found.returncode == 3
    assert "row 2: reward is None, expected a finite number" in found.stderr
    assert "1 row cannot be shown; the page lists them" in found.stderr
    found = rfprm("view", tmp_path / "none.jsonl", "-o", tmp_path / "other.html")
    assert found.returncode == 1
    assert "there is no file" in found.stderr
