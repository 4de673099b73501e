from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from rfprm_runtime import Trajectory, TrajectoryScore
from rfprm_runtime.ground.tint import HIGH, LOW, Scale
from rfprm_runtime.notebook import MAX_CELLS, show


class _Parts(HTMLParser):
    """Checks that elements nest, and keeps titles and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.titles: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.titles += [value for name, value in attrs if name == "title" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _score(
    steps: list[float], trajectory: float | None = 0.25, windowed_from: int | None = None
) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=np.array(steps, dtype=np.float32),
        trajectory_score=trajectory,
        reward=float(np.mean(steps)) + (trajectory or 0.0),
        num_tokens=1234,
        windowed_from=windowed_from,
    )


def test_a_score_shows_a_cell_for_each_step_and_a_summary() -> None:
    parts = _Parts(_score([0.9, 0.2, 0.4], windowed_from=1)._repr_html_())
    assert parts.titles == ["step 0: 0.900", "step 1: 0.200", "step 2: 0.400"]
    assert "".join(parts.texts) == (
        "reward 0.750 · trajectory 0.250 · 3 steps, lowest 0.200 (step 1) · 1,234 tokens · "
        "windowed from step 1"
    )


def test_a_score_without_a_trajectory_score_shows_none() -> None:
    parts = _Parts(_score([0.5], trajectory=None)._repr_html_())
    assert "trajectory" not in "".join(parts.texts)
    assert "1 step, lowest" in "".join(parts.texts)


def test_a_cell_of_a_long_trace_shows_the_lowest_of_its_steps() -> None:
    steps = [0.9] * 1001
    steps[700] = 0.1
    parts = _Parts(_score(steps)._repr_html_())
    assert len(parts.titles) <= MAX_CELLS
    assert "lowest of steps 696 to 701: 0.100" in parts.titles
    assert parts.titles[-1] == "lowest of steps 996 to 1000: 0.900"


def test_show_puts_every_step_beside_its_score_and_escapes_it() -> None:
    trajectory = Trajectory(
        question="<b>2 + 2</b>?", steps=["<script>alert(1)</script>", "שלום"], response=["4 & 4"]
    )
    shown = show(trajectory, _score([0.9, 0.2]))
    parts = _Parts(shown._repr_html_())
    assert parts.tags == {"div", "p", "span", "b"}
    assert "".join(parts.texts).startswith("<b>2 + 2</b>?00.900<script>alert(1)</script>10.200שלום")
    assert "4 & 4" in "".join(parts.texts)
    assert parts.titles[:3] == ["step 0", "step 1", "trajectory score"]
    assert shown._repr_html_().startswith('<div class="tex2jax_ignore mathjax_ignore"')


def test_show_refuses_the_score_of_another_trace() -> None:
    with pytest.raises(ValueError, match="has 1 steps and the score 2 step scores"):
        show(Trajectory(question="q", steps=["a"]), _score([0.1, 0.2]))


def test_show_names_swapped_arguments() -> None:
    trajectory, score = Trajectory(question="q", steps=["a"]), _score([0.1])
    with pytest.raises(ValueError, match=r"TrajectoryScore, expected a Trajectory: show\("):
        show(score, trajectory)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score is of the class Trajectory, expected"):
        show(trajectory, trajectory)  # type: ignore[arg-type]


def test_an_undecided_score_has_no_tint_and_the_ends_have_the_most() -> None:
    assert Scale().tint(0.5).endswith(",0.00)")
    assert Scale().tint(0.0) == "rgba({},{},{},0.42)".format(*LOW)
    assert Scale().tint(1.0) == "rgba({},{},{},0.42)".format(*HIGH)


def test_a_notebook_finds_the_html() -> None:
    pytest.importorskip("IPython", reason="IPython is not installed")
    from IPython.core.formatters import HTMLFormatter

    score = _score([0.5])
    assert HTMLFormatter()(score) == score._repr_html_()


def test_a_trace_without_step_scores_is_shown_with_its_trajectory_score() -> None:
    trace = Trajectory(question="q", steps=("one", "two"), response=("2",))
    score = TrajectoryScore(
        step_scores=np.zeros(0, np.float32), trajectory_score=-12.5, reward=-12.5, num_tokens=9
    )
    parts = _Parts(show(trace, score)._repr_html_())
    assert [text for text in parts.texts if text in ("one", "two", "-12.500")] == [
        *("one", "two", "-12.500")
    ]
    assert parts.titles == ["step 0", "step 1", "trajectory score"]
    assert "".join(parts.texts).endswith("reward -12.500 · trajectory -12.500 · 9 tokens")


def test_scores_that_are_no_probabilities_say_what_their_colours_mean() -> None:
    parts = _Parts(_score([-3.0, 4.0], trajectory=9.5)._repr_html_())
    said = "colours run from -3.000, the lowest score shown, to 9.500"
    assert "".join(parts.texts).endswith(f"1,234 tokens · {said}")
    assert "colours" not in _score([0.0, 1.0])._repr_html_()
