"""Sessions: the scores of whole traces, step by step, and nothing computed twice."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counting_backend import CountingBackend
from rfprm_runtime import BackendError, InvalidTrajectoryError, Scorer, TraceTooLongError, types
from rfprm_runtime.engine.rows import Extended, Extension
from rfprm_runtime.sessions import host as host_module
from rfprm_runtime.types import Trajectory
from tiny_models import fake_scorer, scorer_on

QUESTION = "How many legs do three cats have?"
STEPS = ["A cat has four legs.", "3 * 4 = 12", "So twelve."]


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(2)


@pytest.fixture
def scorer(backend: CountingBackend) -> Iterator[Scorer]:
    with scorer_on(backend) as scorer:
        yield scorer


def test_a_session_scores_like_the_whole_trace(scorer: Scorer) -> None:
    session = scorer.session(QUESTION)
    scores = [session.extend(STEPS[:1]), session.extend(STEPS[1:])]
    whole = scorer.score(QUESTION, STEPS, ["12"])
    assert np.concatenate(scores).tolist() == whole.step_scores.tolist()
    assert session.step_scores.tolist() == whole.step_scores.tolist()
    assert session.steps == tuple(STEPS)
    assert session.score(["12"]) == whole
    assert session.score() == scorer.score(QUESTION, STEPS)


def test_only_new_tokens_are_computed(scorer: Scorer, backend: CountingBackend) -> None:
    session = scorer.session(QUESTION)
    for step in STEPS:
        session.extend([step])
    assert backend.num_tokens == session.num_tokens
    fork = session.fork()
    assert backend.num_tokens == session.num_tokens
    fork.extend(["Or not."])
    assert backend.num_tokens == fork.num_tokens
    assert len(session.steps) == 3


def test_a_fork_of_a_new_session_computes_the_question_once(
    scorer: Scorer, backend: CountingBackend
) -> None:
    session = scorer.session(QUESTION)
    assert backend.num_tokens == 0
    forks = [session.fork() for _ in range(3)]
    assert backend.num_tokens == session.num_tokens
    scores = scorer.extend_sessions(forks, [[step] for step in STEPS])
    for step, score in zip(STEPS, scores, strict=True):
        assert score.tolist() == scorer.score(QUESTION, [step]).step_scores.tolist()
    assert max(backend.passes) > 1, "short stretches go together"


def test_many_sessions_of_one_question_share_what_is_not_cached(
    scorer: Scorer, backend: CountingBackend
) -> None:
    sessions = [scorer.session(QUESTION) for _ in range(4)]
    scorer.extend_sessions(sessions, [STEPS[:1]] * 4)
    assert backend.num_tokens == sessions[0].num_tokens
    results = scorer.score_sessions(sessions, [["12"], ["13"], [], ["12"]])
    assert results[1] == scorer.score(QUESTION, STEPS[:1], ["13"])
    assert results[2] == scorer.score(QUESTION, STEPS[:1])
    assert results[0] == results[3]


def test_beyond_the_budget_the_oldest_is_computed_again(backend: CountingBackend) -> None:
    with scorer_on(backend, session_bytes=2 * 64) as scorer:
        sessions = [scorer.session(QUESTION + str(number)) for number in range(3)]
        for session in sessions:
            session.extend(STEPS[:1])
            assert scorer.session_bytes <= 128
        before = backend.num_tokens
        sessions[2].extend(STEPS[1:2])
        assert backend.num_tokens - before < sessions[2].num_tokens
        before = backend.num_tokens
        scores = sessions[0].extend(STEPS[1:])
        assert backend.num_tokens - before == sessions[0].num_tokens
        whole = scorer.score(sessions[0].question, STEPS)
        assert scores.tolist() == whole.step_scores[1:].tolist()


def test_closing_and_forgetting_free_memory(scorer: Scorer) -> None:
    session = scorer.session(QUESTION)
    session.extend(STEPS)
    fork = session.fork()
    used = scorer.session_bytes
    assert used > 0
    session.close()
    session.close()
    assert scorer.session_bytes == used, "the fork still needs it"
    with pytest.raises(BackendError, match="the session was closed"):
        session.extend(STEPS)
    del fork
    gc.collect()
    assert scorer.session_bytes == 0
    with scorer.session(QUESTION) as other:
        other.extend(STEPS)
    assert scorer.session_bytes == 0
    assert repr(other) == "<Session: 3 steps, closed>"


def test_bad_input_leaves_sessions_as_they_were(scorer: Scorer) -> None:
    with pytest.raises(InvalidTrajectoryError, match="question is blank"):
        scorer.session(" ")
    session, other = scorer.session(QUESTION), scorer.session(QUESTION)
    session.extend(STEPS[:1])
    for bad, error in (
        ([], InvalidTrajectoryError),
        (["fine", " "], InvalidTrajectoryError),
        ("one string", InvalidTrajectoryError),
        (["x" * 5000], TraceTooLongError),
    ):
        with pytest.raises(error):
            scorer.extend_sessions([other, session], [["good"], bad])
        assert session.steps == tuple(STEPS[:1])
        assert other.steps == ()
    with pytest.raises(InvalidTrajectoryError, match="got 0 steps"):
        other.score()
    assert (
        session.extend(STEPS[1:]).tolist() == scorer.score(QUESTION, STEPS).step_scores[1:].tolist()
    )
    with pytest.raises(TraceTooLongError):
        scorer.session("x" * 5000)


def test_what_is_wrong_with_one_session_leaves_the_others_alone(
    scorer: Scorer, backend: CountingBackend
) -> None:
    """With on_error="return"; with "raise" nothing is extended."""
    unread = InvalidTrajectoryError("no text")
    given: list[Any] = [STEPS[:1], ["x" * 5000], [" "], [], "text", [3], unread, STEPS[:1], ["8"]]
    sessions = [scorer.session(QUESTION) for _ in given]
    sessions[7].close()
    found = scorer.extend_sessions(sessions, given, on_error="return")
    kinds = [TraceTooLongError, *[InvalidTrajectoryError] * 5, BackendError]
    assert [type(item) for item in found[1:8]] == kinds
    assert found[6] is unread
    for index, step in ((0, STEPS[0]), (8, "8")):
        [expected] = scorer.score(QUESTION, [step]).step_scores
        assert found[index].tolist() == [expected]  # type: ignore[union-attr]
        assert sessions[index].steps == (step,)
    assert all(session.steps == () for session in sessions[1:8])
    backend.passes.clear()
    # The place is that of the first one with an error.
    with pytest.raises(TraceTooLongError, match=r"^session 1 \(from 0\): "):
        scorer.extend_sessions(sessions, given)
    assert sessions[0].steps == tuple(STEPS[:1])
    assert backend.passes == []
    scores = scorer.score_sessions([sessions[0], sessions[1]], [["12"], ["12"]], on_error="return")
    assert scores[0] == scorer.score(QUESTION, STEPS[:1], ["12"])
    assert "got 0 steps" in str(scores[1])
    for session in sessions[1:7]:  # none of them is left claimed
        session.extend(STEPS)


def test_a_call_that_makes_no_sense_raises_even_if_errors_are_returned(scorer: Scorer) -> None:
    session = scorer.session(QUESTION)
    for sessions, steps, error, match in (
        ([session, session], [STEPS, STEPS], BackendError, "given twice"),
        ([session], [], ValueError, "steps: got 0 values for 1 sessions"),
        ([session], "1", ValueError, "steps: got '1' for 1 sessions"),
        (session, [STEPS], ValueError, "sessions is of the class Session, expected a list"),
        (["session"], [STEPS], ValueError, r"session 0 \(from 0\) is 'session', expected a scorer"),
    ):
        with pytest.raises(error, match=match):
            scorer.extend_sessions(sessions, steps, on_error="return")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        scorer.extend_sessions([session], [STEPS], on_error="ignore")  # type: ignore[call-overload]
    assert session.steps == ()


def test_steps_are_checked_only_when_they_come(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(types, "_check_unicode", seen.append)
    session = scorer.session(QUESTION)
    session.extend(STEPS)
    session.score(["12"])
    assert [text for text in seen if text != QUESTION] == [*STEPS, "12"]


def test_an_interrupt_after_the_pass_leaves_all_sessions_as_they_were(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pasts have grown, and must not be taken for those of what comes next."""
    sessions = [scorer.session(QUESTION), scorer.session(QUESTION)]
    scorer.extend_sessions(sessions, [STEPS[:1], STEPS[:1]])
    grown, calls = host_module._grown, itertools.count()

    def interrupt(*arguments: Any) -> Any:
        if next(calls):
            raise KeyboardInterrupt
        return grown(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(host_module, "_grown", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scorer.extend_sessions(sessions, [["one"], ["other"]])
    assert [session.steps for session in sessions] == [(STEPS[0],), (STEPS[0],)]
    scorer.extend_sessions(sessions, [["two, and so on"], ["one"]])
    for session in sessions:
        assert session.score() == scorer.score(QUESTION, session.steps)
        assert session.fork().score() == session.score()


def test_a_failing_backend_leaves_sessions_as_they_were(
    scorer: Scorer, backend: CountingBackend
) -> None:
    sessions = [scorer.session(QUESTION + str(number) * 80) for number in range(3)]
    scorer.extend_sessions(sessions, [STEPS[:1]] * 3)
    backend.passes.clear()
    backend.fail_after = 1
    with pytest.raises(BackendError, match="out of luck"):
        scorer.extend_sessions(sessions, [[step * 4] for step in STEPS])
    assert [session.steps for session in sessions] == [tuple(STEPS[:1])] * 3
    backend.fail_after = None
    for session in sessions:
        session.extend(STEPS[1:])
        assert session.score() == scorer.score(session.question, STEPS)


def test_a_fork_computes_no_past_if_none_is_kept(backend: CountingBackend) -> None:
    with scorer_on(backend, session_bytes=0) as scorer, scorer.session(QUESTION) as session:
        session.extend(STEPS[:1])
        before = backend.num_tokens
        fork = session.fork()
        assert backend.num_tokens == before
        fork.extend(STEPS[1:])
        assert fork.score() == scorer.score(QUESTION, STEPS)


def test_a_budget_too_small_for_one_past_is_reported_once(
    backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with scorer_on(backend, session_bytes=1) as scorer, scorer.session(QUESTION) as session:
        for step in STEPS:
            session.extend([step])
        assert session.score() == scorer.score(QUESTION, STEPS)
    [record] = caplog.records
    assert "does not fit session_bytes=1" in record.getMessage()


def test_misuse_is_named(scorer: Scorer) -> None:
    session = scorer.session(QUESTION)
    with pytest.raises(BackendError, match="given twice in this call; pass a fork"):
        scorer.extend_sessions([session, session], [STEPS, STEPS])
    with pytest.raises(ValueError, match="steps: got 2 values for 1 sessions"):
        scorer.extend_sessions([session], [STEPS, STEPS])
    with pytest.raises(ValueError, match="responses: got 0 values for 1 sessions"):
        scorer.score_sessions([session], [])
    with (
        scorer_on(CountingBackend(2)) as other,
        pytest.raises(BackendError, match="another scorer"),
    ):
        other.extend_sessions([session], [STEPS])
    assert scorer.extend_sessions([], []) == []
    session.extend(STEPS)
    scorer.close()
    with pytest.raises(BackendError, match="the scorer was closed"):
        session.extend(STEPS)


def test_two_threads_cannot_extend_one_session(backend: CountingBackend) -> None:
    entered, leave = threading.Event(), threading.Event()

    class SlowBackend(CountingBackend):
        def extend(self, extensions: Sequence[Extension], threads: int = 1) -> list[Extended]:
            entered.set()
            assert leave.wait(10)
            return super().extend(extensions, threads)

    with scorer_on(SlowBackend(2)) as scorer, ThreadPoolExecutor(1) as pool:
        session = scorer.session(QUESTION)
        future = pool.submit(session.extend, STEPS)
        assert entered.wait(10)
        with pytest.raises(BackendError, match="another thread is using the session"):
            session.extend(STEPS)
        leave.set()
        assert len(future.result()) == 3
        assert session.steps == tuple(STEPS)


def test_without_a_cache_sessions_run_the_whole_trace() -> None:
    with fake_scorer() as scorer:
        session = scorer.session(QUESTION)
        session.extend(STEPS[:1])
        fork = session.fork()
        fork.extend(STEPS[1:])
        assert fork.score(["12"]) == scorer.score(QUESTION, STEPS, ["12"])
        assert scorer.session_bytes == 0


def test_a_model_without_a_trajectory_score() -> None:
    with fake_scorer(family="qwen2.5-math-prm") as scorer:
        session = scorer.session(QUESTION)
        session.extend(STEPS)
        assert session.score(["12"]) == scorer.score(QUESTION, STEPS, ["12"])
        assert session.score().trajectory_score is None


def test_a_batch_computes_what_its_traces_share_once(
    scorer: Scorer, backend: CountingBackend
) -> None:
    traces = [
        Trajectory(question=QUESTION, steps=tuple(STEPS[:n]), response=(str(r),))
        for n in (1, 2, 3)
        for r in (12, 13)
    ]
    scores = scorer.score_batch(traces)
    assert backend.num_tokens < 0.6 * sum(score.num_tokens for score in scores)
    with scorer_on(CountingBackend(2), share_prefixes=False) as alone:
        assert scores == alone.score_batch(traces)
        assert scores == [scorer.score_batch([trace])[0] for trace in traces]


def test_sessions_on_onnxruntime_agree_to_rounding(tiny_artifact: Path) -> None:
    """Its linears round differently for rows of different lengths."""
    with Scorer.load(tiny_artifact, backend="onnx") as scorer:
        session = scorer.session(QUESTION)
        found = [session.extend([step]) for step in STEPS]
        whole = scorer.score(QUESTION, STEPS)
        assert np.abs(np.concatenate(found) - whole.step_scores).max() <= 1e-5
