"""Evaluation sets as people have them: published formats and their spellings."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.record import Place, Record
from rfprm_training import TrainingError
from rfprm_training.evaluation.published_formats import ORIGINAL
from rfprm_training.evaluation.set_formats import PUBLISHED, read_evaluation_set

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
BENCH: dict[str, Any] = {"problem": "q", "steps": ["a", "b"], "label": 1}
MISTAKE: dict[str, Any] = {"input": "q", "steps": ["a", "b"], "mistake_index": 1}
MODIFIED: dict[str, Any] = {
    "question": "q",
    "modified_process": ["a", "b"],
    "error_steps": [2],
    "classification": "circular",
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_processbench_is_read(tmp_path: Path) -> None:
    rows = [
        {"problem": "q", "steps": ["a", "b", "c"], "label": 1, "final_answer_correct": False},
        {"problem": "p", "steps": ["a"], "label": -1, "final_answer_correct": True},
    ]
    wrong, right = read_evaluation_set(f"processbench:{write(tmp_path / 'p.jsonl', *rows)}")
    assert wrong.step_labels[:2] == (1.0, 0.0)
    assert math.isnan(wrong.step_labels[2])
    assert (wrong.first_error, right.first_error) == (1, None)
    assert (wrong.trajectory_label, right.trajectory_label) == (0.0, 1.0)


def test_prmbench_gives_the_right_process_and_the_wrong_one(tmp_path: Path) -> None:
    row = {
        "original_question": "q",
        "modified_question": "q",
        "original_process": ["a", "b"],
        "modified_process": ["a", "x", "b"],
        "error_steps": [2],
        "classification": "circular",
    }
    right, wrong = read_evaluation_set(f"prmbench:{write(tmp_path / 'p.jsonl', row)}")
    assert (right.step_labels, wrong.step_labels) == ((1.0, 1.0), (1.0, 0.0, 1.0))
    assert wrong.kind == "circular"


@pytest.mark.parametrize(
    ("spec", "row", "complaint"),
    [
        ("words:x.jsonl", {}, "expected FORMAT:PATH"),
        ("x.jsonl", {}, "expected FORMAT:PATH"),
        ("processbench:", {"problem": "q", "steps": ["a"], "label": 4}, "first wrong step is 4"),
        (
            "processbench:",
            {"problem": "q", "steps": []},
            "line 1 is not in the format processbench",
        ),
        ("outcomes:", {"question": "q", "completion": "a"}, "has no outcome"),
        ("outcomes:", {"query": "q"}, "no steps and no text"),
    ],
)
def test_an_unreadable_set_is_named(
    tmp_path: Path, spec: str, row: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path / "x.jsonl", row)
    with pytest.raises(TrainingError, match=complaint):
        read_evaluation_set(spec + str(path) if spec.endswith(":") else spec)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("big_bench_mistake:bbm_word_sorting", 300),
        ("big_bench_mistake:bbm_tracking_shuffled_objects", 300),
        ("prmbench:prmbench_sample", 150),
        ("outcomes:long_cot_aime24", 30),
    ],
)
def test_real_sets_are_read_whole(spec: str, count: int) -> None:
    name, _, file = spec.partition(":")
    assert len(read_evaluation_set(f"{name}:{SHARED / file}.jsonl")) == count


def test_subsets_are_named_by_the_ids(tmp_path: Path) -> None:
    rows = [
        {"id": "olympiadbench-12", "problem": "q", "steps": ["a"], "label": -1},
        {"problem": "p", "steps": ["a"], "label": 0},
        *(
            {"id": name, "problem": "r", "steps": ["a"], "label": 0}
            for name in ("omnimath-3-b-7", "GSM8K_3", "gsm8k2-3", "other-set-1")
        ),
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = [one.kind for one in read_evaluation_set(f"processbench:{path}")]
    assert kinds == ["olympiadbench", "processbench", "omnimath", "gsm8k", "gsm8k2", "other-set"]


def test_repeated_rows_of_prmbench_count_once(tmp_path: Path) -> None:
    row = {
        "original_question": "q",
        "original_process": ["a"],
        "modified_question": "q",
        "modified_process": ["b"],
        "error_steps": [1],
    }
    rows = [
        {**row, "classification": kind, "idx": index}
        for kind, index in (("circular", 1), ("circular", 1), ("deception", 1), ("circular", 2))
    ]
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (*rows, row, row)))
    wrong = [e.kind for e in read_evaluation_set(f"prmbench:{path}") if e.kind != ORIGINAL]
    assert wrong == ["circular", "deception", "circular", "prmbench", "prmbench"]


def test_blank_steps_are_left_out_with_their_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """PRMBench has three processes with some, and error steps beyond the end of a process."""
    row = {
        "original_question": "q",
        "original_process": ["a", " "],
        "modified_question": "q",
        "modified_process": ["", "a", "b", "\n", "c"],
        "error_steps": [3, 4, 9],
        "classification": "deception",
    }
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(row) + "\n")
    right, wrong = read_evaluation_set(f"prmbench:{path}")
    assert (right.trajectory.steps, right.step_labels) == (("a",), (1.0,))
    assert (wrong.trajectory.steps, wrong.step_labels) == (("a", "b", "c"), (1.0, 0.0, 1.0))
    assert "left out empty steps, with their labels (one row, at set.jsonl, line 1)" in (
        caplog.text
    )
    assert "ignored error_steps that the process does not have (one row" in caplog.text
    path.write_text(json.dumps({"problem": "q", "steps": ["", "a", "b"], "label": 1}) + "\n")
    (found,) = read_evaluation_set(f"processbench:{path}")
    assert (found.first_error, len(found.step_labels)) == (0, 2)
    path.write_text(json.dumps({"problem": "q", "steps": ["a", ""], "label": 1}) + "\n")
    with pytest.raises(TrainingError, match=r"the first wrong step, 1 \(from 0\), holds nothing"):
        read_evaluation_set(f"processbench:{path}")


def test_only_published_sets_need_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def records(place: str) -> list[Any]:
        asked.append(place)
        row = {"problem": "q", "modified_question": "q", "steps": ["a"], "label": 0}
        row |= {"modified_process": ["a"], "error_steps": [1]}
        return [Record(Place(place, "row", 1), row)]

    monkeypatch.setattr("rfprm_training.evaluation.set_formats.read_records", records)
    for name, places in PUBLISHED.items():
        asked.clear()
        assert len(read_evaluation_set(name)) == len(places)
        assert tuple(asked) == places
    with pytest.raises(TrainingError, match="only processbench and prmbench are on the Hub"):
        read_evaluation_set("big_bench_mistake")


@pytest.mark.parametrize(
    ("name", "row", "spelled"),
    [
        ("processbench", BENCH, {"label": 1.0}),
        ("processbench", BENCH, {"label": "1"}),
        ("processbench", BENCH, {"steps": [{"text": "a"}, {"text": "b"}]}),
        ("processbench", BENCH, {"steps": '["a", "b"]'}),
        ("processbench", BENCH, {"final_answer_correct": None}),
        ("processbench", BENCH, {"generator": "a model", "id": 7}),
        ("processbench", BENCH, {"label": "1.0", "final_answer_correct": "1"}),
        ("processbench", BENCH, {"final_answer_correct": "", "id": ""}),
        ("prmbench", MODIFIED, {"original_process": "", "idx": None}),
        ("big_bench_mistake", MISTAKE, {"mistake_index": 1.0}),
        ("prmbench", MODIFIED, {"error_steps": ["2"]}),
        ("prmbench", MODIFIED, {"error_steps": "[2]"}),
        ("prmbench", MODIFIED, {"error_steps": [2.0]}),
        ("prmbench", MODIFIED, {"modified_question": "q", "question": None}),
    ],
)
def test_values_are_read_in_every_spelling_that_means_one_thing(
    tmp_path: Path, name: str, row: dict[str, Any], spelled: dict[str, Any]
) -> None:
    [plain] = read_evaluation_set(f"{name}:{write(tmp_path / 'plain.jsonl', row)}")
    [found] = read_evaluation_set(f"{name}:{write(tmp_path / 'spelled.jsonl', row | spelled)}")
    assert found.trajectory.steps == plain.trajectory.steps == ("a", "b")
    assert found.step_labels == plain.step_labels == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("processbench", BENCH | {"label": None}, "label: is empty, expected the first wrong step"),
        ("processbench", BENCH | {"label": True}, "label: is True, expected a whole number"),
        ("processbench", BENCH | {"label": "one"}, "label: is 'one', expected a whole number"),
        ("processbench", BENCH | {"label": "--1"}, "label: is '--1', expected a whole number"),
        ("processbench", BENCH | {"label": 0.5}, "label: is 0.5, expected a whole number"),
        ("processbench", BENCH | {"label": ""}, "label: is empty"),
        ("processbench", BENCH | {"final_answer_correct": 3}, "is 3, expected true, false"),
        ("processbench", BENCH | {"label": -2}, "first wrong step is -2 .from 0., but there are 2"),
        ("processbench", BENCH | {"steps": "a b"}, "steps: is 'a b', expected a list"),
        ("processbench", BENCH | {"steps": None}, "steps: is None, expected a list"),
        ("processbench", BENCH | {"steps": ["a", 3]}, r"step 1 \(from 0\) is 3, expected a text"),
        ("processbench", BENCH | {"steps": []}, "there are 0 steps"),
        (
            "processbench",
            BENCH | {"final_answer_correct": "maybe"},
            "expected true, false or a share",
        ),
        ("processbench", MISTAKE, "problem: is missing.*the row has 'input', 'steps'"),
        ("big_bench_mistake", MISTAKE | {"mistake_index": -1}, "or null if none is"),
        ("prmbench", MODIFIED | {"error_steps": "2"}, "error_steps: is '2', expected a list"),
        ("prmbench", MODIFIED | {"error_steps": None}, "error_steps: is None, expected a list"),
        ("prmbench", MODIFIED | {"modified_process": "a"}, "modified_process: is 'a', expected"),
        ("prmbench", BENCH, "modified_question: is missing; modified_process: is missing"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(
    tmp_path: Path, name: str, row: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path / "x.jsonl", row)
    with pytest.raises(TrainingError, match=f"x.jsonl, line 1 is not in the format.*{complaint}"):
        read_evaluation_set(f"{name}:{path}")


def test_a_missing_mistake_is_none_in_every_spelling(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [MISTAKE, MISTAKE | {"mistake_index": None}]
    floats = [{**row, "mistake_index": row["mistake_index"] or math.nan} for row in rows]
    path = tmp_path / "set.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(floats), path)
    table = tmp_path / "set.csv"
    table.write_text('input,steps,mistake_index\nq,"[""a"", ""b""]",1.0\nq,"[""a"", ""b""]",\n')
    for spec in (path, table, write(tmp_path / "set.jsonl", *rows)):
        found = [e.first_error for e in read_evaluation_set(f"big_bench_mistake:{spec}")]
        assert found == [1, None]


def test_an_answer_is_right_whatever_space_is_around_it(tmp_path: Path) -> None:
    rows = [
        MISTAKE | {"answer": answer, "target": "(C)"} for answer in (" (C)", "(C)\n", "(A)", "C")
    ]
    gaps = [MISTAKE, MISTAKE | {"target": "4"}, MISTAKE | {"answer": None, "target": "4"}]
    gaps.append(MISTAKE | {"answer": "", "target": ""})
    path = write(tmp_path / "set.jsonl", *rows, *gaps)
    found = [e.trajectory_label for e in read_evaluation_set(f"big_bench_mistake:{path}")]
    assert found[:4] == [1.0, 1.0, 0.0, 0.0]
    assert all(map(math.isnan, found[4:]))


def test_what_was_made_of_rows_is_said_once_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [MODIFIED | {"idx": index} for index in (1, 1, 2)]
    stray = [MODIFIED | {"idx": index, "error_steps": [0, 9]} for index in (3, 4, 5)]
    found = read_evaluation_set(f"prmbench:{write(tmp_path / 'set.jsonl', *rows, *stray)}")
    assert [e.has_wrong_step for e in found] == [True, True, False, False, False]
    assert len(caplog.records) == 2
    assert "left out, as upstream does, what has the classification and idx" in caplog.text
    assert "(one row, at set.jsonl, line 2)" in caplog.text
    assert "ignored error_steps that the process does not have (3 rows" in caplog.text


def test_rows_without_an_identity_repeat_none(tmp_path: Path) -> None:
    rows = [MODIFIED | {"idx": index} for index in (None, None, "", "")]
    assert len(read_evaluation_set(f"prmbench:{write(tmp_path / 'set.jsonl', *rows)}")) == 4


def test_a_folder_of_subsets_is_read_whole(tmp_path: Path) -> None:
    for subset in ("gsm8k", "math"):
        write(tmp_path / f"{subset}.jsonl", BENCH | {"id": f"{subset}-1"})
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "._math.jsonl").write_text("not data")
    (tmp_path / "math.jsonl.errors.jsonl").write_text("not data")
    found = read_evaluation_set(f"processbench:{tmp_path}")
    assert [example.kind for example in found] == ["gsm8k", "math"]


def test_a_folder_without_data_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "x.jsonl", BENCH)
    with pytest.raises(TrainingError, match="holds no data files, and those of its subfolders"):
        read_evaluation_set(f"processbench:{tmp_path}")
    with pytest.raises(TrainingError, match="expected FORMAT:PATH"):
        read_evaluation_set("processbench:")


def test_a_data_set_that_was_saved_is_one_source(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([BENCH, BENCH]).save_to_disk(tmp_path / "saved")
    assert len(read_evaluation_set(f"processbench:{tmp_path / 'saved'}")) == 2


@pytest.mark.parametrize("name", ["processbench", "outcomes", "rewarded"])
def test_a_set_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingError, match="holds no rows"):
        read_evaluation_set(f"{name}:{write(tmp_path / 'x.jsonl')}")


def test_packed_rewards_are_read(tmp_path: Path) -> None:
    row = {"question": "q", "steps": ["a"], "response": [], "step_rewards": [0.2]}
    path = tmp_path / "rewards.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(row) + "\n").encode()))
    [found] = read_evaluation_set(f"rewarded:{path}")
    assert found.step_labels == (0.2,)
    with pytest.raises(TrainingError, match="id: is not a field; put other fields into metadata"):
        read_evaluation_set(f"rewarded:{write(tmp_path / 'x.jsonl', row | {'id': 1})}")
    with pytest.raises(TrainingError, match=r"x\.parquet is not a JSONL file"):
        read_evaluation_set(f"rewarded:{write(tmp_path / 'x.parquet')}")


def test_outcomes_may_come_from_reference_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"question": "q", "completion": f"so\nThe answer is {answer}.", "answer": "1,200"}
        for answer in ("1200", "7")
    ]
    path = write(tmp_path / "x.jsonl", *rows, {**rows[1], "is_correct": True})
    found = read_evaluation_set(f"outcomes:{path}", Reading("lines"))
    assert [e.trajectory_label for e in found] == [1.0, 0.0, 1.0]
    assert [len(e.trajectory.steps) for e in found] == [2, 2, 2]
    assert "x.jsonl: 2 outcomes were decided by the row's reference answer" in caplog.text
    assert "read question from 'question', text from 'completion'" in caplog.text
    read_evaluation_set(f"outcomes:{path}")
    assert "3 of 3 traces are a single step of several lines; --split lines" in caplog.text


@pytest.mark.parametrize(
    ("stated", "outcome"),
    [("1", 1.0), ("0", 0.0), ("True", 1.0), ("no", 0.0), (0.25, 0.25), (None, 1.0), ("", 1.0)],
)
def test_a_stated_outcome_comes_before_the_reference_answer(
    tmp_path: Path, stated: object, outcome: float
) -> None:
    row = {"question": "q", "completion": "It is \\boxed{4}.", "answer": "4", "correct": stated}
    [found] = read_evaluation_set(f"outcomes:{write(tmp_path / 'x.jsonl', row)}")
    assert found.trajectory_label == outcome


@pytest.mark.parametrize("stated", ["partly", "3"])
def test_a_stated_outcome_that_cannot_be_read_is_refused(tmp_path: Path, stated: object) -> None:
    row = {"question": "q", "completion": "4", "answer": "4", "correct": stated}
    with pytest.raises(TrainingError, match=r"x.jsonl, line 1: correct is .*, expected true"):
        read_evaluation_set(f"outcomes:{write(tmp_path / 'x.jsonl', row)}")


def test_an_answer_that_cannot_be_compared_costs_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"question": "q", "completion": f"\\boxed{{{stated}}}", "answer": "4"}
        for stated in (4, 5, 6)
    ]

    def agree(stated: str, reference: str) -> bool | None:
        return None if stated == "6" else stated == reference

    @contextmanager
    def comparing() -> Iterator[Any]:
        yield agree

    monkeypatch.setattr("rfprm_training.evaluation.set_formats.comparing", comparing)
    found = read_evaluation_set(f"outcomes:{write(tmp_path / 'x.jsonl', *rows)}")
    assert [e.trajectory_label for e in found] == [1.0, 0.0]
    assert "left out answers that could not be compared with the reference (one row" in caplog.text


def test_outcomes_that_disagree_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"question": "q", "completion": "4", "correct": False, "is_correct": True}
    agreeing = {**row, "correct": 0.7}
    path = write(tmp_path / "x.jsonl", row, agreeing)
    found = read_evaluation_set(f"outcomes:{path}")
    assert [e.trajectory_label for e in found] == [1.0, 1.0]
    assert "took is_correct where outcomes disagree (one row, at x.jsonl, line 1)" in caplog.text
