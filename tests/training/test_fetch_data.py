"""GSM8K's files come whole, from the network or a folder, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from rfprm_training import DataError, TrainingError, fetch_data
from rfprm_training.gsm8k import read_rows
from rfprm_training.learning.config import DataConfig, read_config

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"question": f"{index} é?", "answer": "#### 1"} for index in range(5)]


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of grade-school-math, with matching sha256 sums."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    files = []
    for file in fetch_data.FILES:
        (folder / file.upstream).write_bytes(content)
        files.append(replace(file, sha256=sha256(file.make(content)).hexdigest()))
    monkeypatch.setattr(fetch_data, "FILES", tuple(files))
    return folder


def test_files_are_downloaded_once_and_kept(upstream: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    place = upstream.as_uri()
    assert [new for _, new in fetch_data.fetch_data(data, upstream=place)] == [True, True]
    train, solutions = (data / file.name for file in fetch_data.FILES)
    assert list(read_rows(train)) == ROWS
    assert list(read_rows(solutions)) == ROWS[::2]
    assert [new for _, new in fetch_data.fetch_data(data, upstream=place)] == [False, False]
    train.write_text("cut")
    assert [new for _, new in fetch_data.fetch_data(data, upstream=place)] == [True, False]


def test_a_folder_may_hold_the_upstream_files_or_ours(upstream: Path, tmp_path: Path) -> None:
    fetch_data.fetch_data(tmp_path / "first", source=upstream)
    fetch_data.fetch_data(tmp_path / "second", source=tmp_path / "first")
    for file in fetch_data.FILES:
        first, second = (tmp_path / name / file.name for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("content", [b'{"other": 1}\n', b"<html>", b""])
def test_other_content_is_refused_and_leaves_nothing(
    upstream: Path, tmp_path: Path, content: bytes
) -> None:
    (upstream / "train.jsonl").write_bytes(content)
    with pytest.raises(
        DataError, match=r"gsm8k_train\.jsonl with sha256 .*set its path in the config"
    ):
        fetch_data.fetch_data(tmp_path / "data", source=upstream)
    assert not (tmp_path / "data").exists()
    shutil.copy(upstream / "example_model_solutions.jsonl", upstream / "train.jsonl")
    (upstream / "example_model_solutions.jsonl").write_bytes(b"<html>")
    with pytest.raises(DataError, match="is not JSON"):
        fetch_data.fetch_data(tmp_path / "data", source=upstream)


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot download file://.* --from"):
        fetch_data.fetch_data(tmp_path / "data", upstream=(tmp_path / "no").as_uri())
    with pytest.raises(TrainingError, match=r"holds neither gsm8k_train\.jsonl nor .*train\.jsonl"):
        fetch_data.fetch_data(tmp_path / "data", source=tmp_path)
    with pytest.raises(TrainingError, match="run 'rfprm fetch-data' to get GSM8K's into data/"):
        list(read_rows(tmp_path / "data" / "gsm8k_train.jsonl"))


def test_the_shipped_configs_read_fetched_files_or_tell_how_theirs_are_made() -> None:
    names = {f"data/{file.name}" for file in fetch_data.FILES}
    for path in sorted((ROOT / "training" / "configs").glob("*.toml")):
        data = read_config(path).data
        assert isinstance(data, DataConfig)
        made = [str(p) for p in (data.gold, data.model_solutions, *data.rewarded) if p is not None]
        for name in {*made} - names:
            assert f"-o {name}" in path.read_text(), path


def test_the_shared_files_are_the_ones_to_fetch(shared_data: Path, tmp_path: Path) -> None:
    assert all(new for _, new in fetch_data.fetch_data(tmp_path, source=shared_data))
