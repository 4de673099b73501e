from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rfprm_runtime import InvalidArgumentError, Scorer, TraceTooLongError, Trajectory, Windows
from rfprm_runtime.backends.fake import FakeBackend
from rfprm_runtime.engine.rows import TokenRow
from rfprm_runtime.prompt.encoding import EncodedTrajectory
from rfprm_runtime.prompt.windowing import plan_windows
from rfprm_runtime.types import windows_of
from tiny_models import fake_scorer, manifest_of, scorer_on

NUM_PREFIX = 3
CONTEXTS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 0.999)


def _row(
    step_lengths: list[int], num_suffix: int = 0, *, steps: bool = True, closing: bool = True
) -> EncodedTrajectory:
    """Token ids count up, so a window shows which tokens it took. ``steps`` and ``closing``: which
    have markers."""
    bounds = NUM_PREFIX + np.concatenate([[0], np.cumsum(step_lengths)])
    total = int(bounds[-1]) + num_suffix
    markers = [*(bounds[1:] - 1 if steps else []), *([total - 1] if closing else [])]
    return EncodedTrajectory(
        np.arange(total), np.array(markers, np.int64), bounds, len(step_lengths) if steps else 0
    )


def _contexts(row: EncodedTrajectory, windows: list[TokenRow]) -> list[tuple[int, int]]:
    """Of each marker, in order: the tokens of its part, and those between question and part."""
    ends = np.append(row.step_bounds, row.num_tokens)
    found = []
    for window in windows:
        begin = int(window.token_ids[NUM_PREFIX])
        for marker in window.token_ids[window.marker_positions]:
            part = int(np.searchsorted(ends, marker, side="right")) - 1
            if len(found) == len(row.marker_positions) - 1 > row.num_step_markers - 1:
                part = row.num_steps  # the trajectory's, which may be the last step's token too
            found.append((int(ends[part + 1] - ends[part]), int(ends[part]) - begin))
    return found


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=25)
layouts = st.sampled_from([(True, True), (True, False), (False, True)])


@given(lengths, st.integers(0, 8), layouts, st.integers(15, 60), st.sampled_from(CONTEXTS))
@example([12] * 4, 0, (True, True), 15, 0)  # a step fills the room, the closing is empty
def test_every_marker_is_scored_once_with_the_context_asked_for(
    step_lengths: list[int],
    num_suffix: int,
    layout: tuple[bool, bool],
    max_positions: int,
    context: float,
) -> None:
    row = _row(step_lengths, num_suffix, steps=layout[0], closing=layout[1])
    plan = plan_windows(row, max_positions, Windows(context))
    marked = np.concatenate([w.token_ids[w.marker_positions] for w in plan.rows])
    assert marked.tolist() == row.marker_positions.tolist()
    for window in plan.rows:
        ids, rest = window.token_ids, window.token_ids[NUM_PREFIX:]
        assert window.num_tokens <= max_positions
        assert ids[:NUM_PREFIX].tolist() == list(range(NUM_PREFIX))
        assert (np.diff(rest) == 1).all()  # steps in one piece, none left out
        assert rest[0] in row.step_bounds  # beginning where a step begins
    room = max_positions - NUM_PREFIX
    ends = np.append(row.step_bounds, row.num_tokens)
    for marker, (size, before) in enumerate(_contexts(row, plan.rows)):
        part = marker + row.num_steps - row.num_step_markers
        past = int(ends[part]) - NUM_PREFIX
        begins = [int(b) for b in row.step_bounds if ends[part] - b + size <= room]
        all_that_fits = int(ends[part]) - min(begins)
        if part == row.num_steps:  # the trajectory's score rests on all that fits
            assert before == all_that_fits
        assert before >= min(past, context * room, all_that_fits)
    if row.num_tokens <= max_positions:
        assert plan.rows == [row]
        assert plan.windowed_from is None


@given(lengths, st.integers(0, 8), st.booleans(), st.integers(15, 60), st.sampled_from(CONTEXTS))
def test_windowed_from_is_the_first_step_without_its_whole_past(
    step_lengths: list[int], num_suffix: int, closing: bool, max_positions: int, context: float
) -> None:
    row = _row(step_lengths, num_suffix, closing=closing)
    plan = plan_windows(row, max_positions, Windows(context))
    ends = np.append(row.step_bounds, row.num_tokens)
    short = [
        part
        for part, (_, before) in enumerate(_contexts(row, plan.rows))
        if before < ends[part] - NUM_PREFIX
    ]
    assert plan.windowed_from == (short[0] if short else None)


@given(lengths, st.booleans(), st.integers(15, 60))
def test_more_context_never_needs_fewer_windows(
    step_lengths: list[int], closing: bool, max_positions: int
) -> None:
    row = _row(step_lengths, 4, closing=closing)
    counts = [len(plan_windows(row, max_positions, Windows(c)).rows) for c in CONTEXTS]
    assert counts == sorted(counts)


@given(st.integers(1, 6), st.integers(1, 40), st.booleans(), st.integers(15, 60))
def test_more_context_never_costs_less_if_steps_are_alike(
    length: int, count: int, closing: bool, max_positions: int
) -> None:
    row = _row([length] * count, length if closing else 0, closing=closing)
    costs = [_num_tokens(row, max_positions, context) for context in CONTEXTS]
    assert costs == sorted(costs)


def _num_tokens(row: EncodedTrajectory, max_positions: int, context: float) -> int:
    """What windows run, but for the question, which they share."""
    rows = plan_windows(row, max_positions, Windows(context)).rows
    return sum(window.num_tokens - NUM_PREFIX for window in rows)


@pytest.mark.parametrize("closing", [True, False])
@pytest.mark.parametrize(("context", "cost"), [(0, 1.0), (1 / 8, 1.125), (1 / 2, 1.5)])
def test_a_trace_one_token_too_long_costs_the_context_more(
    context: float, cost: float, closing: bool
) -> None:
    row = _row([1] * 801, closing=closing)
    assert _num_tokens(row, 800 + NUM_PREFIX, context) == pytest.approx(801 * cost, abs=2)


@pytest.mark.parametrize(("context", "cost"), [(0, 1.0), (1 / 4, 1.33), (1 / 2, 2.0)])
def test_a_long_trace_costs_what_the_documents_say(context: float, cost: float) -> None:
    row = _row([1] * 80_000)
    assert _num_tokens(row, 800 + NUM_PREFIX, context) / 80_000 == pytest.approx(cost, abs=0.02)


def test_the_first_window_is_short_if_a_trajectory_is_scored_and_the_last_otherwise() -> None:
    found = [
        [
            (int(w.token_ids[NUM_PREFIX]) - NUM_PREFIX, w.num_tokens - NUM_PREFIX)
            for w in plan_windows(_row([5] * 9, closing=closing), 20 + NUM_PREFIX).rows
        ]
        for closing in (True, False)
    ]
    assert found == [
        [(0, 15), (5, 20), (15, 20), (25, 20)],
        [(0, 20), (10, 20), (20, 20), (30, 15)],
    ]


def test_what_closes_the_steps_is_not_run_without_a_marker_in_it() -> None:
    row = _row([5] * 4, 30, closing=False)
    plan = plan_windows(row, 20 + NUM_PREFIX)
    assert [window.num_tokens for window in plan.rows] == [20 + NUM_PREFIX]
    assert plan.windowed_from is None


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("steps", "num_suffix"), [([30], 1), ([5, 30, 5], 1), ([5], 30)])
def test_what_cannot_be_split_is_refused(steps: list[int], num_suffix: int, context: float) -> None:
    with pytest.raises(TraceTooLongError, match="split or shorten that step") as caught:
        plan_windows(_row(steps, num_suffix), 20, Windows(context))
    assert caught.value.num_tokens == 30 + NUM_PREFIX


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_step_that_fills_the_room_stands_alone(context: float) -> None:
    row = _row([5, 20, 5], closing=False)
    rows = plan_windows(row, 20 + NUM_PREFIX, Windows(context)).rows
    assert [len(window.marker_positions) for window in rows] == [1, 1, 1]
    assert _contexts(row, rows)[1] == (20, 0)


@pytest.mark.parametrize(
    "context", [-0.1, 1, 1.5, float("nan"), float("inf"), "0.5", None, True, np.float32(1)]
)
def test_a_context_that_is_no_share_is_refused(context: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"context is .*, expected a share: at least 0"):
        Windows(context)  # type: ignore[arg-type]


def test_window_is_short_for_windows_as_they_are() -> None:
    assert windows_of("error") is None
    assert windows_of("window") == windows_of(Windows()) == Windows(0.5)
    for wrong in ("cut", None, 0.5, Windows, ["window"]):
        with pytest.raises(InvalidArgumentError, match=r"overflow is .* or Windows\(context=…\)"):
            windows_of(wrong)


def _long_trace(num_steps: int = 30) -> Trajectory:
    steps = [f"step {index} of a long trace" for index in range(num_steps)]
    return Trajectory(question="q", steps=steps, response=["done"])


def test_a_long_trace_is_scored_in_windows_and_says_from_where() -> None:
    called: list[int] = []
    with fake_scorer(max_positions=160) as scorer, fake_scorer(max_positions=10_000) as wide:
        [score] = scorer.score_batch([_long_trace()], overflow="window", on_scored=called.append)
        [whole] = wide.score_batch([_long_trace()], overflow="window")
    assert whole.windowed_from is None
    assert score.windowed_from is not None
    assert 0 < score.windowed_from < 30
    assert score.num_tokens == whole.num_tokens > 160
    same = score.step_scores == whole.step_scores
    assert same[: score.windowed_from].all()
    assert not same[score.windowed_from :].any()
    assert called == [1]


def test_less_context_runs_fewer_tokens_and_no_setting_touches_a_trace_that_fits() -> None:
    found = []
    with fake_scorer(max_positions=160) as scorer:
        for context in CONTEXTS:
            score = scorer.score("q", steps=["a", "b"], overflow=Windows(context))
            assert score == scorer.score("q", steps=["a", "b"])
            assert score.num_run_tokens == score.num_tokens
            found.append(scorer.score_batch([_long_trace()], overflow=Windows(context))[0])
    run = [score.num_run_tokens or 0 for score in found]
    assert run == sorted(run)
    assert found[0].num_tokens < run[0] < run[-1]
    assert len({score.trajectory_score for score in found}) == 1  # rests on all that fits


def _prefix_scorer(max_positions: int) -> Scorer:
    manifest = manifest_of("sequence", max_positions=max_positions)
    return scorer_on(FakeBackend(manifest.head.num_labels), manifest, score_prefixes=True)


@pytest.mark.parametrize("context", [0, 1 / 2])
def test_scored_prefixes_say_which_is_the_first_that_did_not_fit(context: float) -> None:
    trace = _long_trace()
    with _prefix_scorer(160) as scorer, _prefix_scorer(10_000) as wide:
        [score] = scorer.score_batch([trace], overflow=Windows(context))
        [whole] = wide.score_batch([trace])
    assert score.windowed_from is not None
    same = score.step_scores == whole.step_scores
    assert same[: score.windowed_from].all()
    assert not same[score.windowed_from :].any()
