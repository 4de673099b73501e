from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rfprm_runtime import InvalidTrajectoryError, SourceError
from rfprm_runtime.traces.formats import Reading
from rfprm_runtime.traces.jsonl import parse_object
from rfprm_runtime.traces.record import Record
from rfprm_runtime.traces.sources import check_source, open_source, open_stream
from selection.selection_helpers import traces, write_jsonl


def read_all(source: Path | str, shard_rows: int, *, backwards: bool = False) -> dict[int, Record]:
    """Shard by shard, by the row."""
    with closing(open_source(str(source))) as opened:
        shards = opened.plan(shard_rows).shards
        found: dict[int, Record] = {}
        for shard in reversed(shards) if backwards else shards:
            found |= opened.read(shard, Reading()).records
    return found


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """The same rows as JSON lines, as Parquet with uneven row groups, and as a data set."""
    rows = traces(700)
    write_jsonl(tmp_path / "in.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=190)
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "train.jsonl", rows)
    return [
        str(tmp_path / "in.jsonl"),
        str(tmp_path / "in.parquet"),
        f"hf://{tmp_path / 'hub'}",
    ]


@pytest.mark.parametrize("shard_rows", [1, 7, 256, 1000])
def test_shards_of_any_size_hold_every_row_once(sources: list[str], shard_rows: int) -> None:
    for source in sources:
        found = read_all(source, shard_rows)
        assert [found[row].fields for row in range(700)] == traces(700)


def test_shards_can_be_read_in_any_order(sources: list[str]) -> None:
    for source in sources:
        found = read_all(source, 100, backwards=True)
        assert [found[row].fields for row in range(700)] == traces(700)


def test_row_numbers_of_json_lines_are_line_numbers(tmp_path: Path) -> None:
    good = traces(2)
    source = write_jsonl(tmp_path / "in.jsonl", [good[0], "", "{", good[1], "   "])
    rows = read_all(source, 2)
    assert list(rows) == [0, 2, 3]
    assert [rows[0].fields, rows[3].fields] == good
    assert rows[2].error is not None
    assert [str(record.place) for record in rows.values()] == [
        "in.jsonl, line 1",
        "in.jsonl, line 3",
        "in.jsonl, line 4",
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_changed_row_changes_the_fingerprint(tmp_path: Path, suffix: str) -> None:
    def fingerprint(answer: str) -> object:
        rows, path = [{"question": "q", "completion": answer}], tmp_path / f"in{suffix}"
        if suffix == ".jsonl":
            write_jsonl(path, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)
        with closing(open_source(str(path))) as opened:
            assert opened.plan(256).fingerprint == opened.fingerprint()
            return opened.fingerprint()

    assert fingerprint("4") == fingerprint("4")
    assert fingerprint("4") != fingerprint("5")


def test_a_stream_holds_what_the_shards_hold(sources: list[str]) -> None:
    for source in sources:
        with closing(open_stream(source)) as stream:
            records = list(stream.records(Reading()))
        assert [record.fields for record in records] == traces(700)
        assert [record.place.number for record in records] == list(range(1, 701))


def test_the_share_read_is_known_except_for_streams(sources: list[str]) -> None:
    for source in sources:
        with closing(open_stream(source)) as stream:
            assert stream.share_read() is None
            records = stream.records(Reading())
            for _ in range(350):
                next(records)
            share = stream.share_read()
            if source.startswith("hf://"):
                assert share is None
                continue
            assert share == pytest.approx(0.5, abs=0.05)
            assert len(list(records)) == 350
            assert stream.share_read() == 1.0


def test_a_file_read_to_its_end_has_its_fingerprint(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", traces(3))
    with closing(open_source(str(path))) as opened:
        list(opened.records(Reading()))
        path.unlink()
        assert opened.fingerprint()["num_rows"] == 3


def test_names_are_looked_for_in_the_pass_that_divides_a_file(tmp_path: Path) -> None:
    rows = [{"question": "q", "a/b": 1}, {"question": "q"}, r'{"a\/b": 1}', r'{"\u0061/b": 1}', "{"]
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    found: list[tuple[str, bool]] = []
    with closing(open_source(str(path))) as opened:
        plan = opened.plan(
            2, watched=["a/b"], on_names=lambda place, names: found.append((place, "a/b" in names))
        )
    assert found == [(f"row {number} of the input", True) for number in (1, 3, 4)]
    assert [(shard.start, shard.count) for shard in plan.shards] == [(0, 2), (2, 2), (4, 1)]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("absent.jsonl", "there is no file"),
        ("data.xlsx", "ends in '.xlsx', expected .jsonl"),
        ("data.parquet.gz", "or a packed .jsonl or .csv"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, name: str, complaint: str) -> None:
    for file in ("data.xlsx", "data.parquet.gz"):
        (tmp_path / file).write_text("a,b\n")
    for read in (open_source, open_stream, check_source):
        with pytest.raises(SourceError, match=complaint):
            read(str(tmp_path / name))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match="is not a Parquet file"):
        open_stream(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("name", ["n" * 5000 + ".jsonl", "a\0b.jsonl", "/dev/null"])
def test_a_source_with_an_impossible_name_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(SourceError):
        open_source(name)


def test_a_source_that_may_not_be_read_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("{}")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    with pytest.raises(SourceError, match="permission denied"):
        open_source(str(path))


def test_a_deep_row_is_an_error_in_its_place() -> None:
    with pytest.raises(InvalidTrajectoryError, match="nested deeper than 64 levels"):
        parse_object(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}")
