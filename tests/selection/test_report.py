from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from rfprm_runtime import MissingExtraError
from rfprm_runtime.selection import OutputOptions, Selection, select_traces
from rfprm_runtime.selection.charts import length_against_score
from selection.selection_helpers import traces, write_jsonl
from tiny_models import fake_scorer


def report_of(tmp_path: Path, rows: list[object], rule: Selection) -> str:
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    options = OutputOptions(report=tmp_path / "report.html")
    with fake_scorer() as scorer:
        select_traces(scorer, source, tmp_path / "out.jsonl", rule, options=options)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_says_what_was_chosen_and_what_was_not(tmp_path: Path) -> None:
    rule = Selection(top=7, per_question=1, length_control="residual")
    page = report_of(tmp_path, [*traces(40), "broken"], rule)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "33 82.5 %" not in text  # shares are of all traces, failed ones included
    assert "outside the top 33 80.5 %" in text
    assert "could not be scored 1 2.4 %" in text
    assert "row 41: not JSON" in text
    for name in ("web", "book", "exam", "the best", "the median", "the worst", "residual", "tiny"):
        assert name in text
    assert page.count("<svg") == 2


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = report_of(tmp_path, list(traces(10)), Selection(top=3))
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert "url(http" not in page
    assert "<script" not in page


def test_texts_of_the_data_are_escaped(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script>"
    rows = [{"question": attack, "completion": attack, "source": f"{attack} $x$"}] * 3
    page = report_of(tmp_path, list(rows), Selection(top=1))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_equal_selections_give_equal_pages(tmp_path: Path) -> None:
    rule = Selection(group_by="source", top_per_group=2)
    assert report_of(tmp_path, list(traces(9)), rule) == report_of(tmp_path, list(traces(9)), rule)


def test_the_axis_labels_short_ranges_of_length_with_whole_numbers() -> None:
    lengths = np.arange(38, 44, dtype=np.int32)
    places = np.arange(3, dtype=np.int32)
    drawing = length_against_score(lengths, lengths / 50, places, None, "reward")
    assert "times" not in drawing
    assert ">40</text>" in drawing


def test_a_selection_without_scores_has_a_page_too(tmp_path: Path) -> None:
    page = report_of(tmp_path, ["broken"], Selection(top=1))
    assert "row 1: not JSON" in page


def test_a_missing_package_is_reported_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else find_spec(name)
    )
    with pytest.raises(MissingExtraError, match=r"\[select\]"):
        report_of(tmp_path, list(traces(2)), Selection(top=1))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
