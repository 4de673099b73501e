"""Outputs appear whole, and replace nothing but outputs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rfprm_runtime import RfprmError
from rfprm_runtime.errors import OutputError
from rfprm_runtime.ground import partial_names, whole_files
from rfprm_runtime.ground.claims import claimed
from rfprm_runtime.ground.whole_files import (
    check_target,
    remove_leftovers,
    replacing,
    replacing_files,
    replacing_folder,
    replacing_path,
    write_whole,
)


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


def name_of(process: int, start: int | None = None, host: str | None = None) -> str:
    started = partial_names._start_of(process) if start is None else start
    return f".out.partial-{process}-{started}-{host or partial_names._host()}-0"


def test_leftovers_are_what_dead_processes_of_this_host_wrote(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    parent, own = os.getppid(), os.getpid()
    dead = {
        name_of(ended.pid, 5),
        name_of(parent, 5),  # another process has its PID now
        name_of(own, 5),
        f".out.partial-{own}",  # of an earlier version; containers reuse PIDs
        f".out.partial-{ended.pid}-spool",
        f".out.replaced-{ended.pid}",
    }
    alive = {
        name_of(parent),
        name_of(own),
        name_of(ended.pid, 5, host="0123abcd"),
        f".out.partial-{parent}",
        ".out.partial-mine",
        f"out.partial-{ended.pid}",
        f".out.backup-{ended.pid}",
    }
    others = {f".out.jsonl.partial-{ended.pid}", f".my.out.partial-{ended.pid}"}
    for name in dead | alive | others:
        (tmp_path / name).touch()
    (tmp_path / ".out.partial-4194999").mkdir()
    (tmp_path / ".out.partial-4194999" / "model").touch()
    write_whole(tmp_path / "out", "new")
    assert {path.name for path in tmp_path.iterdir()} == alive | others | {"out"}
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == alive | {"out"}


def test_threads_that_write_the_same_file_do_not_mix(tmp_path: Path) -> None:
    texts = [letter * 200_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_whole(tmp_path / "out", text), texts))
    assert (tmp_path / "out").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    write_whole(path, "new")
    left = partial_names.beside(path, "partial")
    left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194999-")).touch()
    write_whole(path, "newer")
    assert [path.read_text()] == ["newer"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "out", "old")
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(whole_files, "beside", lambda path, kind: full)
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left.*; free some space"):
        write_whole(tmp_path / "out", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


def test_a_library_that_hides_the_reason_is_asked_by_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError), replacing_path(tmp_path / "out"):
        raise KeyError("the disk is fine")
    monkeypatch.setattr(whole_files, "_refusal_of", lambda folder: errno.ENOSPC)
    with pytest.raises(OutputError, match="No space left"), replacing_path(tmp_path / "out"):
        raise KeyError("some library's words")
    with pytest.raises(OutputError, match="No space left"), replacing_folder(tmp_path / "new"):
        raise KeyError("some library's words")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_removed_during_the_run_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def write() -> None:
        with replacing(folder / "out") as file:
            file.write("new")
            shutil.rmtree(folder)

    with pytest.raises(OutputError, match="its folder was removed"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_swap: bool
) -> None:
    if not can_swap:
        monkeypatch.setattr(whole_files, "swap", lambda one, other: False)
    for text in ("old", "new"):
        with replacing_folder(tmp_path / "out") as partial:
            (partial / "file").write_text(text)
    assert (tmp_path / "out" / "file").read_text() == "new"
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_stepped_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".out.replaced-4194999").mkdir()
    (tmp_path / ".out.replaced-4194999" / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_file_that_speaks_for_the_others_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put = whole_files.put_in_place
    monkeypatch.setattr(
        whole_files, "put_in_place", lambda a, b: (order.append(b.name), put(a, b))[1]
    )
    with replacing_files(tmp_path, last="b") as partial:
        for name in "abc":
            (partial / name).write_text(name)
    assert sorted(order) == ["a", "b", "c"]
    assert order[-1] == "b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_an_output_belongs_to_one_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from rfprm_runtime.ground.claims import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print('mine', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "mine\n"
        refused = r"another run is using .*out; wait for it, or choose another output"
        with pytest.raises(OutputError, match=refused), claimed(tmp_path / "out"):
            pass
        with claimed(tmp_path / "other"):
            pass
        other.kill()
        other.wait()
    with claimed(tmp_path / "out"), pytest.raises(OutputError), claimed(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
