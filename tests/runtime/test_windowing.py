from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rfprm_runtime import TraceTooLongError, Trajectory
from rfprm_runtime.prompt.encoding import EncodedTrajectory
from rfprm_runtime.prompt.windowing import first_windowed_step, plan_windows
from tiny_models import fake_scorer


def _row(num_prefix: int, step_lengths: list[int], num_suffix: int) -> EncodedTrajectory:
    """Token ids count up, so a window shows which tokens it took."""
    bounds = num_prefix + np.concatenate([[0], np.cumsum(step_lengths)])
    total = int(bounds[-1]) + num_suffix
    markers = [*(bounds[1:] - 1), *([total - 1] if num_suffix else [])]
    return EncodedTrajectory(np.arange(total), np.array(markers), bounds, len(step_lengths))


@given(
    st.integers(1, 10),
    st.lists(st.integers(1, 12), min_size=1, max_size=25),
    st.integers(0, 8),
    st.integers(12, 60),
)
def test_windows_fit_and_hold_every_marker_once_with_its_past(
    num_prefix: int, step_lengths: list[int], num_suffix: int, max_positions: int
) -> None:
    assume(num_prefix + max([*step_lengths, num_suffix]) <= max_positions)
    row = _row(num_prefix, step_lengths, num_suffix)
    windows = plan_windows(row, max_positions)
    marked = np.concatenate([w.token_ids[w.marker_positions] for w in windows])
    assert marked.tolist() == row.marker_positions.tolist()
    for window in windows:
        assert window.num_tokens <= max_positions
        ids = window.token_ids
        assert ids[:num_prefix].tolist() == list(range(num_prefix))
        rest = ids[num_prefix:]
        assert (np.diff(rest) == 1).all()  # steps in one piece, none left out
        assert len(rest) == 0 or rest[0] in row.step_bounds  # beginning where a step begins
    first = first_windowed_step(row, max_positions)
    if row.num_tokens <= max_positions:
        assert windows == [row]
        assert first is None
    else:
        assert first == np.sum(row.step_bounds[1:] <= max_positions)


def test_later_windows_keep_preceding_steps() -> None:
    windows = plan_windows(_row(2, [5] * 8, 0), max_positions=22)
    assert [w.token_ids[2] for w in windows] == [2, 12, 22]
    assert [len(w.marker_positions) for w in windows] == [4, 2, 2]


@pytest.mark.parametrize(("steps", "num_suffix"), [([30], 0), ([5, 30, 5], 0), ([5], 30)])
def test_what_cannot_be_split_is_refused(steps: list[int], num_suffix: int) -> None:
    with pytest.raises(TraceTooLongError, match="split or shorten that step") as caught:
        plan_windows(_row(2, steps, num_suffix), max_positions=20)
    assert caught.value.num_tokens == 32


def test_a_long_trace_is_scored_in_windows_and_says_from_where() -> None:
    steps = [f"step {index} of a long trace" for index in range(30)]
    trajectory = Trajectory(question="q", steps=steps, response=["done"])
    called: list[int] = []
    with fake_scorer(max_positions=160) as scorer, fake_scorer(max_positions=10_000) as wide:
        [score] = scorer.score_batch([trajectory], overflow="window", on_scored=called.append)
        [whole] = wide.score_batch([trajectory], overflow="window")
    assert whole.windowed_from is None
    assert score.windowed_from is not None
    assert 0 < score.windowed_from < 30
    assert score.num_tokens == whole.num_tokens > 160
    same = score.step_scores == whole.step_scores
    assert same[: score.windowed_from].all()
    assert not same[score.windowed_from :].any()
    assert called == [1]


def test_windows_change_nothing_for_a_trace_that_fits() -> None:
    with fake_scorer() as scorer:
        score = scorer.score("q", steps=["a", "b"], response=["c"])
        assert scorer.score("q", steps=["a", "b"], response=["c"], overflow="window") == score
