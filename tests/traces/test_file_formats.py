"""The same rows in every file format, packed and not, and what is damaged in each."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from rfprm_runtime import SourceError, Trajectory
from rfprm_runtime.traces.formats import Reading, trajectory_from_record
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import open_source, open_stream
from selection.selection_helpers import traces

Q, T = "What is 5 * 8?", '<think>Five eights, "40".\n\nSo 40.</think>\n\nIt is 40.'
SPARSE: list[dict[str, Any]] = [
    {"problem": Q, "completion": T, "steps": None, "messages": None, "answer": "40"},
    {"problem": Q, "completion": None, "steps": ["a", "b"], "messages": None, "answer": None},
    {
        "problem": None,
        "completion": "",
        "steps": None,
        "messages": [
            {"role": "user", "content": Q, "reasoning": None},
            {"role": "assistant", "content": "It is 40.", "reasoning": "Five eights."},
        ],
        "answer": None,
    },
]


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _without_nulls() -> str:
    return _lines([{n: v for n, v in row.items() if v is not None} for row in SPARSE])


def _write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, SPARSE[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        for row in SPARSE:
            cells = row.items()
            writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in cells})


def _write_arrow(path: Path) -> None:
    table = pa.Table.from_pylist(SPARSE)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def _write_zstd(path: Path) -> None:
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(_lines(SPARSE).encode())


WRITERS: dict[str, Callable[[Path], object]] = {
    "nulls.jsonl": lambda path: path.write_text(_lines(SPARSE)),
    "absent.jsonl": lambda path: path.write_text(_without_nulls()),
    "nan.jsonl": lambda path: path.write_text(_lines(SPARSE).replace("null", "NaN")),
    "array.json": lambda path: path.write_text(json.dumps(SPARSE)),
    "pretty.json": lambda path: path.write_text(json.dumps(SPARSE, indent=2)),
    "array.jsonl": lambda path: path.write_text("\n" + json.dumps(SPARSE)),
    "around.json": lambda path: path.write_text(json.dumps({"data": SPARSE}, indent=1)),
    "cells.csv": _write_csv,
    "cells.tsv": _write_csv,
    "packed.jsonl.gz": lambda path: path.write_bytes(gzip.compress(_lines(SPARSE).encode())),
    "packed.json.bz2": lambda path: path.write_bytes(bz2.compress(json.dumps(SPARSE).encode())),
    "packed.jsonl.xz": lambda path: path.write_bytes(lzma.compress(_lines(SPARSE).encode())),
    "packed.jsonl.zst": _write_zstd,
    "table.parquet": lambda path: pq.write_table(pa.Table.from_pylist(SPARSE), path),
    "stream.arrow": _write_arrow,
    "file.feather": lambda path: feather.write_feather(pa.Table.from_pylist(SPARSE), str(path)),
    "folder": lambda path: datasets.Dataset.from_list(SPARSE).save_to_disk(path),
}


def _streamed(path: Path) -> list[Record]:
    with closing(open_stream(str(path))) as stream:
        return list(stream.records(Reading()))


def _sharded(path: Path, shard_rows: int, *, backwards: bool) -> list[Record]:
    found: dict[int, Record] = {}
    with closing(open_source(str(path))) as opened:
        shards = opened.plan(shard_rows).shards
        for shard in reversed(shards) if backwards else shards:
            found |= opened.read(shard, Reading()).records
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_say_the_same_in_every_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    for records in (_streamed(path), _sharded(path, 2, backwards=True)):
        for record, row in zip(records, SPARSE, strict=True):
            found = record.trajectory
            assert isinstance(found, Trajectory), found
            assert found == trajectory_from_record(row).model_copy(update={"source": found.source})
    with closing(open_source(str(path))) as opened:
        assert opened.count_rows() == 3
        assert opened.plan(2).fingerprint == opened.fingerprint()


def test_packed_lines_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(_lines(traces(700)).encode()))
    for backwards in (False, True):
        found = _sharded(path, 100, backwards=backwards)
        assert [record.fields for record in found] == traces(700)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_packed_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"in.jsonl{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match=r"in\.jsonl.* cannot be unpacked"):
        _streamed(path)


def test_a_packed_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(_lines(traces(50)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cannot be unpacked"):
        _streamed(tmp_path / "cut.jsonl.gz")


def test_items_of_an_array_that_are_no_rows_are_errors_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps([SPARSE[0], 7, [1]], indent=1))
    good, *bad = _streamed(path)
    assert good.error is None
    assert [str(record.place) for record in bad] == ["in.json, row 2", "in.json, row 3"]
    assert all("expected an object" in str(record.error) for record in bad)


def test_lines_of_arrays_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('[1]\n{"question": "q", "text": "a"}\n')
    first, second = _streamed(path)
    assert "a JSON array" in str(first.error)
    assert isinstance(second.trajectory, Trajectory)


def test_a_row_with_too_many_cells_is_an_error_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("problem,completion\nq,a\nq,a, b\n")
    good, bad = _streamed(path)
    assert isinstance(good.trajectory, Trajectory)
    assert "1 more cells than the header" in str(bad.error)


def test_a_cell_holds_a_trace_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("problem,completion\nq," + "a" * 200_000 + "\n")
    [record] = _streamed(path)
    assert isinstance(record.trajectory, Trajectory)
    assert len(record.trajectory.steps[0]) == 200_000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"a,b\n\xff,1\n", "not UTF-8"),
        (b'a,b\n"x"y,1\n', "not CSV after line 1"),
    ],
)
def test_a_damaged_csv_file_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(SourceError, match=complaint):
        open_stream(str(tmp_path / "in.csv"))


def test_a_file_that_is_no_arrow_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.arrow").write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match="is not an Arrow file"):
        open_stream(str(tmp_path / "in.arrow"))


def test_a_folder_is_a_data_set_or_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a data set that save_to_disk wrote"):
        open_source(str(tmp_path))
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(SPARSE)})
    splits.save_to_disk(tmp_path / "splits")
    with pytest.raises(SourceError, match=r"holds the splits \['train'\]; name the folder"):
        open_source(str(tmp_path / "splits"))
    assert len(_sharded(tmp_path / "splits" / "train", 2, backwards=False)) == 3


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(_lines(SPARSE).encode())))
    records = list(open_stream("-").records(Reading()))
    assert str(records[2].place) == "standard input, line 3"
    assert isinstance(records[2].trajectory, Trajectory)
    with pytest.raises(SourceError, match="save it to a file"):
        open_source("-")
