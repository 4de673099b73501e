from __future__ import annotations

import sys

import numpy as np
import pytest

from rfprm_runtime import MissingExtraError, TrajectoryScore
from rfprm_runtime.view.plots import plot_scores, plot_steps


def _score(*steps: float, trajectory: float | None = 0.25) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=np.array(steps, dtype=np.float32),
        trajectory_score=trajectory,
        reward=sum(steps) / max(1, len(steps)) + (trajectory or 0.0),
        num_tokens=10,
    )


def test_steps_are_drawn_at_their_scores() -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    [axis] = plot_steps(_score(0.9, 0.5, 0.1).model_copy(update={"windowed_from": 1})).axes
    line = axis.lines[0]
    assert line.get_xdata().tolist() == [0, 1, 2]
    np.testing.assert_allclose(line.get_ydata(), [0.9, 0.5, 0.1], rtol=1e-6)
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["trajectory 0.250", "scored without its whole past"]
    assert plot_steps(_score(0.5, trajectory=None)).axes[0].get_legend() is None


@pytest.mark.parametrize("of", ["reward", "trajectory_score", "lowest_step", "step_scores"])
def test_every_value_is_counted_in_a_histogram(of: str, tmp_path: object) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    scores = [_score(0.1 * k, 1.0) for k in range(10)]
    figure = plot_scores(scores, of=of)  # type: ignore[arg-type]
    [label] = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert label.startswith(f"all ({20 if of == 'step_scores' else 10}, mean ")
    by = ["right", "wrong"] * 5
    figure = plot_scores(scores, of=of, by=by)  # type: ignore[arg-type]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == ["right", "wrong"]
    figure.canvas.draw()


def test_rewards_above_one_have_room() -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    scores = [_score(1.0, trajectory=7.0 * share) for share in (0.0, 0.5, 1.0)]
    [axis] = plot_scores(scores).axes
    assert axis.get_xlim()[0] <= 0.0
    assert axis.get_xlim()[1] >= 8.0


def test_a_single_step_has_a_whole_number_on_the_axis() -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    figure = plot_steps(_score(0.5))
    figure.canvas.draw()
    [axis] = figure.axes
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [0.0]


def test_impossible_plots_are_refused() -> None:
    with pytest.raises(ValueError, match="by has 1 labels for 2 scores"):
        plot_scores([_score(0.5)] * 2, by=["a"])
    with pytest.raises(ValueError, match="none of 2 scores has a trajectory score"):
        plot_scores([_score(0.5, trajectory=None)] * 2, of="trajectory_score")
    with pytest.raises(ValueError, match="none of 0 scores"):
        plot_scores([])
    with pytest.raises(ValueError, match="of is 'mean', expected one of 'reward'"):
        plot_scores([_score(0.5)], of="mean")  # type: ignore[arg-type]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"\[plots\]"):
        plot_steps(_score(0.5))


def test_scores_that_are_no_probabilities_have_room() -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    [axis] = plot_steps(_score(-3.0, 4.0, trajectory=9.5)).axes
    low, high = axis.get_ylim()
    assert -4 < low < -3
    assert 9.5 < high < 10.5
    assert plot_steps(_score(0.2, 0.4)).axes[0].get_ylim() == (-0.03, 1.03)
    [axis] = plot_scores([_score(-4.0), _score(-2.0)], of="lowest_step").axes
    assert axis.get_xlim()[1] < 0
    plot_scores([_score(-2.0)], of="lowest_step").canvas.draw()


def test_without_step_scores_only_the_others_are_drawn() -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra plots")
    score = _score(trajectory=-7.5)
    with pytest.raises(ValueError, match=r"the score has no step scores.*score_prefixes=True"):
        plot_steps(score)
    for of in ("lowest_step", "step_scores"):
        with pytest.raises(ValueError, match="none of 1 scores has a"):
            plot_scores([score], of=of)  # type: ignore[arg-type]
    plot_scores([score], of="trajectory_score").canvas.draw()
