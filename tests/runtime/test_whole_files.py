"""Outputs appear whole, and replace nothing but outputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rfprm_runtime import RfprmError
from rfprm_runtime.ground.whole_files import check_target, remove_leftovers, write_whole


def test_anything_but_a_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    for path, message in (
        (tmp_path, "is a folder"),
        (Path("."), "is a folder"),
        (Path("/"), "is a folder"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / "file" / "below", "is a file, so .* cannot be created"),
    ):
        for refuse in (check_target, lambda path: write_whole(path, "x")):
            with pytest.raises(RfprmError, match=message):
                refuse(path)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_an_input_by_another_name_is_still_the_input(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("mine")
    (tmp_path / "link").symlink_to("in")
    os.link(tmp_path / "in", tmp_path / "hard")
    for name in ("in", "link", "hard"):
        with pytest.raises(RfprmError, match="is the input itself"):
            check_target(tmp_path / name, reads=[tmp_path / "absent", tmp_path / "in"])
    check_target(tmp_path / "out", reads=[tmp_path / "in"])


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to(Path("real") / "file")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"


def test_files_of_a_running_process_are_not_leftovers(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for owner in (ended.pid, os.getppid()):
        (tmp_path / f".out.partial-{owner}").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".out.partial-{os.getppid()}"]
