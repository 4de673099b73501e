"""One row, read once: what it holds, where it comes from, and what was wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rfprm_runtime import InvalidTrajectoryError, Trajectory
from rfprm_runtime.traces.formats import (
    Reading,
    fields_read,
    is_canonical,
    trajectory_from_record,
)
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.traces.sources import read_records, read_traces, read_trajectories
from selection.selection_helpers import write_jsonl

THOUGHT = "<think>I add.</think>42"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions of all trajectories that are validated."""
    questions: list[str] = []
    build = Trajectory.build
    monkeypatch.setattr(
        Trajectory, "build", lambda **f: questions.append(f["question"]) or build(**f)
    )
    return questions


def test_a_record_is_validated_once_and_only_on_request(tmp_path: Path, built: list[str]) -> None:
    rows = [{"question": "a", "completion": THOUGHT, "answer": 4}, {"question": "b", "text": "c"}]
    first, second = read_traces(str(write_jsonl(tmp_path / "in.jsonl", rows)))
    assert built == []
    assert first.trajectory is first.trajectory
    assert built == ["a"]
    assert isinstance(second.trajectory, Trajectory)
    assert built == ["a", "b"]


def test_a_row_that_cannot_be_read_carries_its_error(tmp_path: Path) -> None:
    row = {"question": "q", "generations": ["a", " "]}
    source = write_jsonl(tmp_path / "in.jsonl", ["{", row, {"question": "q", "generations": []}])
    found = {str(trace.place): trace.trajectory for trace in read_traces(str(source))}
    assert list(found) == [
        "in.jsonl, line 1",
        "in.jsonl, line 2, generation 0",
        "in.jsonl, line 2, generation 1",
        "in.jsonl, line 3",
    ]
    broken, good, blank, empty = found.values()
    assert isinstance(good, Trajectory)
    assert good.metadata == {"generation": 0}
    for error, reason in (
        (broken, "not JSON"),
        (blank, "'generations' is empty"),
        (empty, "'generations' is empty"),
    ):
        assert isinstance(error, InvalidTrajectoryError)
        assert reason in str(error)
    with pytest.raises(InvalidTrajectoryError, match=r"in\.jsonl, line 1: not JSON"):
        read_trajectories(source)


def test_a_row_of_a_table_keeps_its_empty_fields_and_is_read_without_them(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "steps": ["a"], "completion": None, "tag": 1.5},
        {"question": "q", "steps": None, "completion": THOUGHT, "tag": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    records = list(read_records(str(tmp_path / "in.parquet")))
    assert [record.fields for record in records] == rows
    assert records[1].present == {"question": "q", "completion": THOUGHT}
    assert [record.trajectory.steps for record in records] == [  # type: ignore[union-attr]
        ("a",),
        ("I add.",),
    ]
    assert [record.place.in_source for record in records] == ["row 1", "row 2"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"outcome": 0.5}, {"response": [], "source": "book"}, {"metadata": {"answer": "4"}}],
)
def test_rows_from_curate_are_taken_as_they_are(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Trajectory(question="q", steps=["a"], response=["b"]).model_dump(mode="json") | changes
    place = Place("curated.jsonl", "line", 1)
    guessed = Record(place, {**row, "another": "field"}).trajectory
    assert is_canonical(row)
    monkeypatch.setattr(
        "rfprm_runtime.traces.formats.read_parts", lambda *_: pytest.fail("nothing is to guess")
    )
    assert Record(place, row).trajectory == guessed


@pytest.mark.parametrize("changes", [{"response": "b\n\nc"}, {"steps": "a"}, {"metadata": None}])
def test_a_row_that_only_looks_canonical_is_read_by_its_fields(changes: dict[str, Any]) -> None:
    row = Trajectory(question="q", steps=["a"]).model_dump(mode="json") | changes
    assert not is_canonical(row)


@pytest.mark.parametrize(
    ("row", "read_from"),
    [
        ({"problem": "q", "solution": "a"}, {"question": "problem", "text": "solution"}),
        (
            {"prompt": "q", "reasoning": "a", "output": "b"},
            {"question": "prompt", "thinking": "reasoning", "response": "output"},
        ),
        (
            {"question": "q", "steps": ["a"]},
            {"question": "question", "steps": "steps"},
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
            {"question": "conversations", "text": "conversations"},
        ),
    ],
)
def test_a_reading_knows_the_fields_it_was_read_from(
    row: dict[str, Any], read_from: dict[str, str]
) -> None:
    assert fields_read(row) == read_from


def test_one_trajectory_from_a_row_in_memory() -> None:
    row = {"problem": "q", "output": "a\nb", "target": "b", "is_correct": True, "source": "exam"}
    found = trajectory_from_record(row, split="lines")
    assert (found.steps, found.outcome, found.source) == (("a", "b"), True, "exam")
    assert found.metadata == {"answer": "b"}
    with pytest.raises(InvalidTrajectoryError, match="2 generations in 'generations'"):
        trajectory_from_record({"question": "q", "generations": ["a", "b"]})


def test_scoring_ignores_an_invalid_outcome() -> None:
    row = {"question": "q", "text": "a", "correct": 3}
    place = Place("in.jsonl", "line", 1)
    assert isinstance(Record(place, row).trajectory, InvalidTrajectoryError)
    reading = Reading(with_outcome=False)
    assert isinstance(Record(place, row, reading=reading).trajectory, Trajectory)


def test_an_unknown_split_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="split is 'words', expected one of"):
        Reading(split="words")  # type: ignore[arg-type]


def test_the_question_of_a_row_without_a_trace(tmp_path: Path) -> None:
    rows: list[Any] = [{"question": "q?"}, {"question": 3}, {"theme": "q"}, "{"]
    found = [r.question for r in read_records(str(write_jsonl(tmp_path / "q.jsonl", rows)))]
    assert found[0] == "q?"
    assert all(isinstance(item, InvalidTrajectoryError) for item in found[1:])
    assert json.dumps(str(found[1])) == '"the question is not a text"'
