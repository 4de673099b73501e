"""The share of right traces that a report tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rfprm_runtime.selection import OutputOptions, Scoring, Selection, select_traces
from rfprm_runtime.selection.summary import RightShare, SelectionSummary
from rfprm_runtime.traces.choosing import FieldNames
from selection.selection_helpers import read_jsonl, write_jsonl
from tiny_models import fake_scorer

REPORT = "report.html"


def _rows() -> list[dict[str, Any]]:
    """12 traces whose answers are known, every third one right; and 3 of which nobody knows."""
    known = [
        {"question": f"{i}?", "completion": f"We add.\n\nThe answer is {i}.", "answer": str(i % 3)}
        for i in range(9)
    ]
    listed = {"question": "9?", "generations": ["It is 1/2.", "It is 0.5.", "No."], "answer": "0.5"}
    unknown = [{"question": f"unknown {i}?", "steps": ["a", "b"]} for i in range(3)]
    return [*known, listed, *unknown, {"question": "x", "steps": ["a"], "outcome": 0.0}]


def _select(folder: Path, rule: Selection, **scoring: Any) -> SelectionSummary:
    source = folder / "in.jsonl"
    if not source.exists():
        write_jsonl(source, _rows())
    options = OutputOptions(report=folder / REPORT)
    with fake_scorer() as scorer:
        return select_traces(
            scorer,
            source,
            folder / "out.jsonl",
            rule,
            scoring=Scoring(shard_rows=4, **scoring),
            options=options,
        )


def test_the_report_tells_the_share_of_right_traces_scored_and_chosen(tmp_path: Path) -> None:
    summary = _select(tmp_path, Selection(top=6))
    # 0, 1 and 2 are right, both halves are, "No." and the outcome 0 are not.
    assert summary.right_scored == RightShare(13, 5)
    chosen = read_jsonl(tmp_path / "out.jsonl")
    right = sum(
        row["question"] in ("0?", "1?", "2?") or row.get("generation") in (0, 1) for row in chosen
    )
    known = sum("answer" in row or "outcome" in row for row in chosen)
    assert summary.right_chosen == RightShare(known, right)
    page = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert f"<b>{summary.right_scored}</b> scored traces" in page
    assert str(summary.right_scored) == "38.5% of 13"

    again = _select(tmp_path, Selection(top=3))  # from the scores of before
    assert again.num_shards_reused == again.num_shards == 4
    assert again.right_scored == summary.right_scored


def test_a_named_answer_field_is_what_traces_are_compared_with(tmp_path: Path) -> None:
    rows = [{"question": "q?", "completion": "It is 4.", "answer": "5", "checked": "4"}]
    write_jsonl(tmp_path / "in.jsonl", rows)
    summary = _select(tmp_path, Selection(top=1), names=FieldNames(answer="checked"))
    assert summary.right_scored == RightShare(1, 1)


def test_without_answers_nothing_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"question": "q?", "steps": ["a"]}])
    summary = _select(tmp_path, Selection(top=1))
    assert summary.right_scored is None
    assert "whose rows know it" not in (tmp_path / REPORT).read_text(encoding="utf-8")


def test_nothing_chosen_is_no_share() -> None:
    assert str(RightShare.of(np.array([np.nan], dtype=np.float32))) == "none of 0"
