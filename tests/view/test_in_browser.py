"""The page in a headless browser: only its own script runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from rfprm_runtime.view.view_files import view_files
from view.scored_files import HOSTILE_STEPS, hostile_row, row, write_rows

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")


def _dom(browser: str, page: Path, profile: Path, link: str = "") -> str:
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={profile}",
        "--virtual-time-budget=5000",
        "--dump-dom",
        page.as_uri() + link,
    ]
    found = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_only_the_visible_rows_of_a_long_list_are_drawn(browser: str, tmp_path: Path) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row(3, id=index) for index in range(1000)])
    view_files([scored], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile")
    assert 'aria-rowcount="1001"' in dom
    assert 10 <= dom.count("aria-rowindex=") < 100
    assert dom.count('class="step"') == 3


def test_selected_traces_are_listed_by_rank(browser: str, tmp_path: Path) -> None:
    rows = [row(rank=2, selection_score=0.5), row(rank=1, selection_score=0.75)]
    scored = write_rows(tmp_path / "best.jsonl", rows)
    view_files([scored], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile")
    assert re.findall(r'class="rank" aria-sort="(\w+)"', dom) == ["ascending"]
    assert re.findall(r'<td class="rank">(\d)</td>', dom) == ["1", "2"]
    assert re.findall(r'<td class="selection_score">([\d.]+)</td>', dom) == ["0.750", "0.500"]


def test_outcomes_are_named_whatever_their_type(browser: str, tmp_path: Path) -> None:
    rows = [row(outcome=outcome) for outcome in (True, False, 1, 0.0, 0.25)] + [row()]
    scored = write_rows(tmp_path / "scored.jsonl", rows)
    view_files([scored], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile")
    outcomes = re.findall(r'<td class="outcome">([^<]*)</td>', dom)
    assert outcomes == ["right", "wrong", "right", "wrong", "0.25", ""]


def test_the_first_error_is_marked_and_listed(browser: str, tmp_path: Path) -> None:
    rows = [row(4, first_error=2), row(4, first_error=None), row(4)]
    view_files([write_rows(tmp_path / "scored.jsonl", rows)], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile")
    assert re.findall(r'<td class="first_error">([^<]*)</td>', dom) == ["step 2", "–", ""]
    assert re.findall(r'<li class="step wrong" id="step-(\d)"', dom) == ["2"]
    assert dom.count("<em>first error</em>") == 1


def test_scores_that_are_no_probabilities_are_shown_and_coloured(
    browser: str, tmp_path: Path
) -> None:
    raw = row(5, step_scores=[-12.5, 3.25, -41.25, 0.5, 18.75], trajectory_score=-11.25)
    rows = [row(3, step_scores=[], trajectory_score=7.5, response=["4"]), raw]
    view_files([write_rows(tmp_path / "scored.jsonl", rows)], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile", "#2")
    assert re.findall(r'<b aria-label="score ([^"]+)">', dom) == [
        *("-12.500", "3.250", "-41.250", "0.500", "18.750")
    ]
    bars = re.findall(r'class="bar" style="width: ([\d.]+)%', dom)
    assert [round(float(bar), 2) for bar in bars] == [47.92, 74.17, 0.0, 69.58, 100.0]
    assert re.findall(r'<td class="lowest">(?:<span[^>]*>([^<]*)</span>)?</td>', dom) == [
        *("", "-41.250")
    ]
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile", "#1")
    assert dom.count('class="step"') == 3
    assert 'aria-label="score' not in dom
    assert "NaN" not in dom.split('<main id="trace"')[1].split("</main>")[0]
    assert "lowest step" not in dom.split('<main id="trace"')[1].split("</main>")[0]


def test_text_of_a_trace_is_shown_and_never_run(browser: str, tmp_path: Path) -> None:
    scored = write_rows(tmp_path / "scored.jsonl", [row(), hostile_row()])
    view_files([scored], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile", "#2")
    assert "<title>scored.jsonl</title>" in dom
    assert len(re.findall("<script", dom)) == 1  # the page's own; the data's is taken out
    assert "<img" not in dom
    shown = re.findall(r'<p dir="auto">(.*?)</p></li>', dom, flags=re.DOTALL)
    # Reading from the browser's pipe normalizes line ends.
    expected = [step.replace("\r\n", "\n") for step in HOSTILE_STEPS]
    assert [unescape(text) for text in shown] == expected


def test_a_trace_of_100_000_characters_is_shown_whole(browser: str, tmp_path: Path) -> None:
    steps = ["a step that has fifty characters, or just about it"] * 2000
    scored = write_rows(
        tmp_path / "scored.jsonl",
        [row(), row(2000, steps=steps, step_scores=[0.5] * 2000, windowed_from=800)],
    )
    view_files([scored], tmp_path / "view.html")
    dom = _dom(browser, tmp_path / "view.html", tmp_path / "profile", "#2")
    assert dom.count('class="step"') == 2000
    assert "from step 800 on" in dom
