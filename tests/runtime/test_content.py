"""Files are known by what they hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime.ground import content
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.ground.made_from import MadeFrom, without_later


def model(folder: Path, weights: str = "weights") -> Path:
    (folder / "below").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    (folder / "below" / "pooling.json").write_text("{}")
    return folder


def test_neither_path_nor_time_nor_readme_is_content(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one"), model(tmp_path / "other")
    os.utime(other / "config.json", (0, 0))
    (other / "README.md").write_text("for people")
    (other / ".gitattributes").write_text("for git")
    for subfolders in (False, True):
        known = content_of(one, subfolders=subfolders)
        assert known == content_of(other, subfolders=subfolders) != None  # noqa: E711
    assert content_of(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_every_byte_and_name_of_a_folder_counts(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "model")
    before = content_of(folder)
    (folder / name).rename(folder / "renamed.json")
    assert content_of(folder) != before
    (folder / "renamed.json").rename(folder / name)
    assert content_of(folder) == before
    (folder / name).write_text("other")
    assert content_of(folder) != before


def test_what_is_below_counts_only_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    before = content_of(folder), content_of(folder, subfolders=True)
    (folder / "below" / "pooling.json").write_text("{1}")
    assert content_of(folder) == before[0]
    assert content_of(folder, subfolders=True) != before[1]


def test_a_change_that_restores_size_and_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_text("aaaa")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    before = content_of(path)
    path.write_text("bbbb")
    os.utime(path, ns=times)
    assert content_of(path) != before


def test_only_files_that_settled_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    whole = content.sha256_of
    monkeypatch.setattr(content, "sha256_of", lambda path: (read.append(path), whole(path))[1])
    path = tmp_path / "weights"
    path.write_text("aaaa")
    assert content_of(path) == content_of(path)
    assert len(read) == 2  # a change within a tick of the clock would leave its times as they are
    monkeypatch.setattr(content, "_SETTLED_NS", -(10**12))
    assert content_of(path) == content_of(path) == content_of(path)
    assert len(read) == 3
    path.write_text("bbbbb")
    assert content_of(path) == whole(path)


def test_a_record_names_every_change(tmp_path: Path) -> None:
    record = MadeFrom(tmp_path / "made_from.json")
    assert not record.is_recorded
    record.record({"input": {"sha256": "a"}, "seed": 1, "gone": (1, 2)})
    assert record.changes({"input": {"sha256": "a"}, "seed": 1, "gone": [1, 2]}) == []
    changed = record.changes({"input": {"sha256": "b"}, "seed": 1, "new": True})
    assert changed == [
        "input.sha256 was a, is b",
        "gone was [1, 2], is None",
        "new was None, is True",
    ]
    for text in ("{", "[]", '"text"', "[" * 100_000):
        record.path.write_text(text)
        assert record.changes({"seed": 1}) == ["made_from.json is damaged"]


def test_settings_that_came_later_are_left_out_while_they_change_nothing() -> None:
    later = {"pairs": 1, "steps.pairing": "nearest", "steps.deep.rule": None}
    old = {"seed": 1, "steps": {"kind": "a", "deep": {}}}
    new: dict[str, Any] = {
        "seed": 1,
        "pairs": 1,
        "steps": {"kind": "a", "pairing": "nearest", "deep": {"rule": None}},
    }
    assert without_later(new, later) == old
    changed = {**new, "pairs": 2, "steps": {**new["steps"], "pairing": "merged"}}
    assert without_later(changed, later) == {
        **old,
        "pairs": 2,
        "steps": {"kind": "a", "pairing": "merged", "deep": {}},
    }
    # The same name elsewhere is another setting.
    assert without_later({"pairing": "nearest"}, later) == {"pairing": "nearest"}
