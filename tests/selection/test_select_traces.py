from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rfprm_runtime import RfprmError, Trajectory
from rfprm_runtime.selection import (
    OutputOptions,
    Scoring,
    Selection,
    SelectionSummary,
    select_traces,
)
from rfprm_runtime.traces import jsonl
from selection.selection_helpers import read_jsonl, traces, write_jsonl
from tiny_models import fake_scorer

ADDED = ["step_scores", "trajectory_score", "reward", "selection_score", "rank"]


def run(
    source: Path | str,
    output: Path,
    *,
    scoring: Scoring | None = None,
    options: OutputOptions | None = None,
    model: dict[str, Any] | None = None,
    **rule: Any,
) -> SelectionSummary:
    with fake_scorer(**(model or {})) as scorer:
        return select_traces(
            scorer, source, output, Selection(**rule), scoring=scoring, options=options
        )


def test_the_best_rows_are_written_in_input_order_with_all_their_fields(tmp_path: Path) -> None:
    rows = traces(40)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    summary = run(source, tmp_path / "out.jsonl", top=10)
    with fake_scorer() as scorer:
        scores = scorer.score_batch(
            Trajectory.from_text(row["question"], row["completion"]) for row in rows
        )
    ranked = sorted(range(40), key=lambda index: -scores[index].reward)[:10]
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == sorted(ranked)
    for row in found:
        original, score = rows[row["id"]], scores[row["id"]]
        assert list(row) == [*original, *ADDED]
        assert {name: row[name] for name in original} == original
        assert row["step_scores"] == score.step_scores.tolist()
        assert row["trajectory_score"] == score.trajectory_score
        assert row["reward"] == row["selection_score"] == score.reward
        assert ranked[row["rank"] - 1] == row["id"]
    assert (summary.num_rows, summary.num_scored, summary.num_chosen) == (40, 40, 10)
    assert summary.outcomes == {"chosen": 10, "outside the top": 30}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_order_can_be_by_rank(tmp_path: Path, suffix: str) -> None:
    table = pa.Table.from_pylist(traces(40))
    pq.write_table(table, tmp_path / "in.parquet")
    found = {}
    for order in ("input", "rank"):
        output = tmp_path / f"{order}{suffix}"
        options = OutputOptions(order=order, work=tmp_path / "work")  # type: ignore[arg-type]
        run(tmp_path / "in.parquet", output, top=12, options=options)
        found[order] = (
            read_jsonl(output) if suffix == ".jsonl" else pq.read_table(output).to_pylist()
        )
    assert [row["rank"] for row in found["rank"]] == list(range(1, 13))
    assert sorted(found["input"], key=lambda row: row["rank"]) == found["rank"]
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_parquet_keeps_every_column_and_type(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            pa.field("question", pa.large_string(), nullable=False),
            ("completion", pa.string()),
            ("small", pa.int8()),
            ("when", pa.timestamp("ms", tz="UTC")),
            ("nested", pa.struct([("tags", pa.list_(pa.string())), ("x", pa.decimal128(7, 2))])),
            ("raw", pa.binary()),
            ("scores", pa.list_(pa.struct([("by", pa.string()), ("n", pa.float32())]))),
            ("kind", pa.dictionary(pa.int32(), pa.string())),
        ],
        metadata={"made": "by hand"},
    )
    columns = [
        [f"q{i}?" for i in range(30)],
        [f"step {i}\n\nend" for i in range(30)],
        [None if i % 4 == 0 else i for i in range(30)],
        [datetime.datetime(2026, 1, 1 + i, tzinfo=datetime.timezone.utc) for i in range(30)],
        [{"tags": ["a", None], "x": None} if i % 2 else None for i in range(30)],
        [bytes([i, 0]) for i in range(30)],
        [[{"by": "me", "n": i / 2}] * (i % 3) for i in range(30)],
        [("easy", "hard")[i % 2] for i in range(30)],
    ]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=11)
    run(tmp_path / "in.parquet", tmp_path / "out.parquet", top=9, scoring=Scoring(shard_rows=4))
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.names == [*schema.names, *ADDED]
    assert [found.schema.field(f.name) for f in schema] == list(schema)
    assert found.schema.metadata[b"made"] == b"by hand"
    kept = [columns[0].index(question) for question in found["question"].to_pylist()]
    assert kept == sorted(kept)
    assert found.select(schema.names).equals(table.take(pa.array(kept)).combine_chunks())
    assert found.schema.field("step_scores").type == pa.list_(pa.float32())


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_choice_does_not_depend_on_the_shard_size(tmp_path: Path, suffix: str) -> None:
    rows = traces(100)
    rows += rows[:30]  # ties
    source = tmp_path / f"in{suffix}"
    if suffix == ".jsonl":
        write_jsonl(source, [*rows, "broken"])
    else:
        pq.write_table(pa.Table.from_pylist(rows), source, row_group_size=37)
    contents = set()
    for shard_rows in (1, 7, 64, 1000):
        output = tmp_path / f"out-{shard_rows}{suffix}"
        run(
            source,
            output,
            scoring=Scoring(shard_rows=shard_rows),
            per_question=1,
            group_by="source",
            top_per_group=9,
            length_control="residual",
        )
        contents.add(
            output.read_bytes()
            if suffix == ".jsonl"
            else json.dumps(pq.read_table(output).to_pylist())
        )
    assert len(contents) == 1


def test_bad_rows_are_reported_and_the_others_scored(tmp_path: Path) -> None:
    good = traces(4)
    long = {"question": "q", "completion": "x" * 600}
    bad = ["{broken", [1], {"question": "q"}, {**good[0], "completion": " "}, long]
    source = write_jsonl(
        tmp_path / "in.jsonl",
        [good[0], bad[0], "", good[1], *bad[1:], {"question": "q", "generations": []}, *good[2:]],
    )
    summary = run(source, tmp_path / "out.jsonl", top=100, scoring=Scoring(shard_rows=3))
    assert [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")] == [0, 1, 2, 3]
    errors = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    reasons = {error["row"]: error["error"] for error in errors}
    assert list(reasons) == [2, 5, 6, 7, 8, 9]
    for row, reason in {
        2: "not JSON",
        5: "a JSON array",
        6: "no steps and no text",
        7: "'completion' is empty",
        8: "512 positions",
        9: "'generations' is empty",
    }.items():
        assert reason in reasons[row]
    assert (summary.num_failed, summary.num_scored) == (6, 4)
    assert summary.first_errors[0].startswith("row 2: not JSON")

    write_jsonl(source, good)
    run(source, tmp_path / "out.jsonl", top=1, options=OutputOptions(work=tmp_path / "second"))
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_every_generation_of_a_row_is_a_separate_trace(tmp_path: Path) -> None:
    row = {
        "problem": "2+2?",
        "generations": ["It is 4.", "Let me see.\n\nIt is 5.", " "],
        "source": ["a", "b", "c"],
    }
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    summary = run(source, tmp_path / "out.jsonl", top=10)
    found = read_jsonl(tmp_path / "out.jsonl")
    assert [item["generation"] for item in found] == [0, 1]
    assert [len(item["step_scores"]) for item in found] == [1, 2]
    assert all(item["generations"] == row["generations"] for item in found)
    [error] = read_jsonl(tmp_path / "out.jsonl.errors.jsonl")
    assert (error["row"], error["generation"]) == (1, 2)
    assert summary.num_scored == 2

    options = OutputOptions(work=tmp_path / "out.jsonl.work", sft=True)
    run(source, tmp_path / "best.jsonl", per_question=1, options=options)
    [best] = read_jsonl(tmp_path / "best.jsonl")
    better = max(found, key=lambda item: item["reward"])["generation"]
    assert best["generation"] == better
    assert best["messages"][1]["content"] == row["generations"][better]
    run(source, tmp_path / "b.jsonl", group_by="source", top_per_group=1, options=options)
    assert len(read_jsonl(tmp_path / "b.jsonl")) == 2


def test_generations_in_parquet_have_a_typed_column(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}?", "generations": [f"It is {i}.", "No."]} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet", top=8)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["generation"].to_pylist() == [0, 1] * 4
    assert found.schema.field("generation").type == pa.int32()
    assert found["generations"].to_pylist()[::2] == [row["generations"] for row in rows]


def test_windowed_traces_are_marked(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "completion": "\n\n".join("word " * 4 for _ in range(40))},
        {"question": "q", "completion": "short"},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run(source, tmp_path / "out.jsonl", top=2, scoring=Scoring(overflow="window"))
    windowed = [row["windowed_from"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert windowed[0] > 0
    assert windowed[1] is None


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_taken_field_name_is_reported_before_scoring(tmp_path: Path, suffix: str) -> None:
    rows = [{**row, "reward": -1.0} for row in traces(3)]
    source = tmp_path / f"in{suffix}"
    if suffix == ".jsonl":
        write_jsonl(source, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    output = tmp_path / f"out{suffix}"
    with pytest.raises(RfprmError, match=r"already has the field 'reward'.*--prefix"):
        run(source, output, top=1)
    assert list(tmp_path.iterdir()) == [source]
    run(source, output, top=1, options=OutputOptions(prefix="prm_"))
    [row] = read_jsonl(output) if suffix == ".jsonl" else pq.read_table(output).to_pylist()
    assert row["reward"] == -1
    assert row["prm_reward"] > 0
    assert row["prm_rank"] == 1


@pytest.mark.parametrize("spelling", ["rank", r"r\u0061nk"])
def test_a_taken_field_name_in_a_later_row_is_found_before_scoring(
    tmp_path: Path, spelling: str
) -> None:
    last = json.dumps({**traces(1)[0], "rank": 9}).replace("rank", spelling)
    source = write_jsonl(tmp_path / "in.jsonl", [*traces(3), last])
    output = tmp_path / "out.jsonl"
    output.write_text("old\n")
    with pytest.raises(RfprmError, match="row 4 of the input already has the field 'rank'"):
        run(source, output, top=4)
    assert output.read_text() == "old\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_rows_without_a_value_to_group_by_are_one_group(tmp_path: Path) -> None:
    rows = [{**row, "source": "web"} for row in traces(8)]
    del rows[1]["source"]
    rows[2]["source"], rows[3]["source"] = None, float("nan")
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run(source, tmp_path / "out.jsonl", group_by="source", top_per_group=1)
    found = [row["id"] for row in read_jsonl(tmp_path / "out.jsonl")]
    assert len(found) == 2
    assert len({1, 2, 3} & set(found)) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: OutputOptions(order="best"),  # type: ignore[arg-type]
        lambda: Scoring(split="l"),  # type: ignore[arg-type]
        lambda: Scoring(overflow="cut"),  # type: ignore[arg-type]
    ],
)
def test_unknown_choices_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        make()


@pytest.mark.parametrize("shard_rows", [0, "4"])
def test_shard_rows_must_be_a_whole_number(shard_rows: Any) -> None:
    with pytest.raises(RfprmError, match=r"--shard-rows\) is .*, expected a whole number"):
        Scoring(shard_rows=shard_rows)


def test_the_score_to_rank_by_can_be_chosen(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(20))
    options = OutputOptions(order="rank", work=tmp_path / "work")
    for score in ("trajectory", "mean", "min", "last", "product"):
        run(source, tmp_path / "out.jsonl", top=20, score=score, options=options)
        rows = read_jsonl(tmp_path / "out.jsonl")
        values = [row["selection_score"] for row in rows]
        assert values == sorted(values, reverse=True)
        if score == "min":
            assert values == [min(row["step_scores"]) for row in rows]
        if score == "trajectory":
            assert values == [row["trajectory_score"] for row in rows]


def test_ranking_by_a_missing_trajectory_score_names_another(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(3))
    model = {"family": "qwen2.5-math-prm"}
    with pytest.raises(RfprmError, match="no trajectory score; rank by 'reward'"):
        run(source, tmp_path / "out.jsonl", top=1, score="trajectory", model=model)
    assert list(tmp_path.iterdir()) == [source]
    run(source, tmp_path / "out.jsonl", top=1, model=model)
    [row] = read_jsonl(tmp_path / "out.jsonl")
    assert row["trajectory_score"] is None


def test_the_input_is_read_once_to_hash_once_to_score_and_once_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing also checks names, and scoring also reads groups."""
    source = write_jsonl(tmp_path / "in.jsonl", traces(40))
    parsed: list[int] = []
    opened: list[str] = []
    parse, open_path = jsonl.parse_object, Path.open
    monkeypatch.setattr(jsonl, "parse_object", lambda line: parsed.append(len(line)) or parse(line))
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: opened.append(path.name) or open_path(path, *a, **k)
    )
    rule: dict[str, Any] = {"group_by": "source", "top_per_group": 40}
    run(source, tmp_path / "out.jsonl", scoring=Scoring(shard_rows=50), **rule)
    assert len(parsed) == 2 * 40
    assert opened.count("in.jsonl") == 4  # the first time to see whether it is an array

    # For shards scored before, the same groups are read from the input.
    work = tmp_path / "out.jsonl.work"
    first = (tmp_path / "out.jsonl").read_bytes()
    run(source, tmp_path / "b.jsonl", options=OutputOptions(work=work),
        scoring=Scoring(shard_rows=50), **rule)  # fmt: skip
    assert (tmp_path / "b.jsonl").read_bytes() == first


def test_groups_do_not_depend_on_which_shards_were_scored_before(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(40))
    rule: dict[str, Any] = {"group_by": "source", "top_per_group": 3}
    scoring = Scoring(shard_rows=4)
    run(source, tmp_path / "whole.jsonl", scoring=scoring, **rule)
    options = OutputOptions(work=tmp_path / "whole.jsonl.work")
    for index in (0, 3, 9):
        (tmp_path / "whole.jsonl.work" / f"shard-{index:06d}.npz").unlink()
    run(source, tmp_path / "again.jsonl", scoring=scoring, options=options, **rule)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_group_field_that_no_row_has_is_an_error_that_keeps_the_scores(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(3))
    with pytest.raises(RfprmError, match="'sorce' to group by"):
        run(source, tmp_path / "out.jsonl", group_by="sorce", top_per_group=1)
    assert (tmp_path / "out.jsonl.work" / "shard-000000.npz").is_file()


def test_rows_without_the_group_field_are_a_group(tmp_path: Path) -> None:
    rows = traces(6)
    for row in rows[3:]:
        del row["source"]
    rows[2]["source"] = {"name": 1}
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run(source, tmp_path / "out.jsonl", group_by="source", top_per_group=1)
    assert sorted(str(row.get("source")) for row in read_jsonl(tmp_path / "out.jsonl")) == [
        "None",
        "book",
        "web",
        "{'name': 1}",
    ]


def test_a_data_set_of_the_hub_becomes_parquet_or_json_lines(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "train.jsonl", traces(20))
    for suffix in (".parquet", ".jsonl"):
        run(f"hf://{tmp_path / 'hub'}", tmp_path / f"out{suffix}", top=5)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in table] == [r["id"] for r in read_jsonl(tmp_path / "out.jsonl")]
    assert table[0]["nested"] == traces(20)[table[0]["id"]]["nested"]


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("out.csv", "expected .jsonl or .parquet"),
        ("out.parquet", "has no column types"),
        ("in.jsonl", "is the input itself"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    tmp_path: Path, output: str, complaint: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(1))
    with pytest.raises(RfprmError, match=complaint):
        run(source, tmp_path / output, top=1)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("report", ["in.jsonl", "out.jsonl", "out.jsonl.errors.jsonl", "folder"])
def test_a_report_overwrites_nothing_else(tmp_path: Path, report: str) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", traces(1))
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RfprmError, match=r"input itself|rows are written to|is a folder"):
        run(source, tmp_path / "out.jsonl", top=1, options=OutputOptions(report=tmp_path / report))
    assert sorted(tmp_path.iterdir()) == before


def test_values_that_json_cannot_hold_need_parquet(tmp_path: Path) -> None:
    row = {"question": "q?", "completion": "a", "raw": b"\x00"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    with pytest.raises(RfprmError, match=r"ends in \.parquet"):
        run(tmp_path / "in.parquet", tmp_path / "out.jsonl", top=1)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_input_gives_an_empty_output(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [])
    assert run(source, tmp_path / "out.jsonl", top=3, length_control="residual").num_chosen == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    schema = pa.schema([("question", pa.string()), ("completion", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "in.parquet")
    run(tmp_path / "in.parquet", tmp_path / "out.parquet", top=3)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
