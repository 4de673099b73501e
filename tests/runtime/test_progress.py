"""Stages are shown on a terminal, or if asked for, and never anywhere else."""

from __future__ import annotations

import io
import sys

import pytest

from rfprm_runtime.ground import progress
from rfprm_runtime.ground.progress import counting, shown_stages, silent, stage


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _work(told: progress.Progress) -> None:
    told("opening the model", 0, 1)
    for done in range(1, 4):
        told("writing layer", done, 3)


@pytest.mark.parametrize("show", [None, False])
def test_without_a_terminal_nothing_is_said_unless_asked(
    show: bool | None, capfd: pytest.CaptureFixture[str]
) -> None:
    with shown_stages(show) as told:
        _work(told)
    assert told is silent
    assert capfd.readouterr() == ("", "")


def test_without_a_terminal_lines_say_what_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown_stages(True) as told:
        _work(told)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["opening the model", "writing layer 1 of 3", "writing layer 3 of 3"]


def test_a_stage_that_takes_long_says_so_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 100, 6))  # seconds
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    with shown_stages(True) as told:
        for done in range(1, 7):
            told("layer", done, 7)
    assert capsys.readouterr().err.splitlines() == [
        "layer 1 of 7",
        "layer 3 of 7",
        "layer 5 of 7",
    ]


def test_a_terminal_gets_a_bar_on_stderr_that_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with shown_stages() as told:
        _work(told)
    shown = terminal.getvalue()
    assert "writing layer" in shown
    assert "3/3" in shown
    assert shown.rstrip("\x1b[?25h").endswith("\x1b[2K")  # the line is erased
    assert capsys.readouterr().out == ""


def test_a_closed_stderr_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with shown_stages(True) as told:
        _work(told)


def test_counting_adds_up() -> None:
    told: list[tuple[str, int, int]] = []
    advance = counting(stage(lambda *step: told.append(step), "trace"), 5)
    advance(2)
    advance(3)
    assert told == [("trace", 2, 5), ("trace", 5, 5)]
