"""Candidates ranked best first: Best-of-N, votes, ties, what cannot be scored."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime import (
    InvalidTrajectoryError,
    MissingExtraError,
    Reranker,
    Scorer,
    TraceTooLongError,
    Trajectory,
    TrajectoryScore,
)
from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.grouping import group_answers, need_algebra
from rfprm_runtime.ranking import count_votes
from rfprm_runtime.scores.aggregation import aggregate, aggregate_steps
from tiny_models import fake_scorer

QUESTION = "What is 6 times 7?"
CANDIDATES = [
    "6 * 7 = 42.\n\nThe answer is 42.",
    "6 + 7 = 13.\n\nThe answer is 13.",
    r"Six sevens.\n\nSo \boxed{42}",
    "7 + 7 = 14.\n\n14 * 3 = 42.\n\nThe answer is 42.0.",
    "No idea.",
]


@pytest.fixture(scope="module")
def scorer(tiny_artifact: Path) -> Iterator[Scorer]:
    with Scorer.load(tiny_artifact, backend="fake") as opened:
        yield opened


@pytest.fixture(scope="module")
def reranker(scorer: Scorer) -> Iterator[Reranker]:
    with Reranker(scorer) as opened:
        yield opened


def score_of(*steps: float, trajectory: float | None = None) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=np.array(steps, np.float32),
        trajectory_score=trajectory,
        reward=7.0,
        num_tokens=1,
    )


def test_the_best_candidate_is_the_one_that_the_scorer_likes_best(
    reranker: Reranker, scorer: Scorer
) -> None:
    ranking = reranker.rank(QUESTION, CANDIDATES)
    scores = scorer.score_batch([Trajectory.from_text(QUESTION, text) for text in CANDIDATES])
    assert [c.index for c in ranking] == np.argsort([-s.reward for s in scores]).tolist()
    assert [c.rank for c in ranking] == [1, 2, 3, 4, 5]
    for candidate in ranking:
        assert candidate.score == scores[candidate.index]
        assert candidate.value == scores[candidate.index].reward
        assert candidate.step_scores is not None
        assert len(candidate.step_scores) == len(ranking[candidate.rank - 1].trajectory.steps)  # type: ignore[union-attr]
    assert ranking.best is ranking[0]
    assert ranking.answer == ranking.best.answer
    assert ranking.votes == ()


def test_top_k_keeps_the_first_of_them(reranker: Reranker) -> None:
    whole = reranker.rank(QUESTION, CANDIDATES)
    assert reranker.rank(QUESTION, CANDIDATES, top_k=2).candidates == whole.candidates[:2]
    assert whole.top_k(2) == list(whole[:2])
    assert len(reranker.rank(QUESTION, CANDIDATES, top_k=50)) == 5


def test_answers_with_the_same_value_count_together(reranker: Reranker) -> None:
    ranking = reranker.rank(QUESTION, CANDIDATES, method="majority_vote")
    assert [c.answer for c in sorted(ranking, key=lambda c: c.index)] == [
        "42", "13", "42", "42.0", None,
    ]  # fmt: skip
    assert [(v.answer, v.weight, v.members) for v in ranking.votes] == [
        ("42", 3.0, (0, 2, 3)),
        ("13", 1.0, (1,)),
    ]
    # A majority vote ignores scores: ties keep their order, candidates without an answer are last.
    assert [c.index for c in ranking] == [0, 2, 3, 1, 4]
    assert ranking.answer == "42"


def test_a_weighted_vote_adds_up_scores_and_orders_within_an_answer(reranker: Reranker) -> None:
    ranking = reranker.rank(QUESTION, CANDIDATES, method="weighted_vote")
    by_index = {c.index: c.value for c in ranking}
    assert ranking.votes[0].weight == pytest.approx(
        sum(by_index[i] or 0 for i in ranking.votes[0].members)
    )
    first = [c.value or 0 for c in ranking if c.index in ranking.votes[0].members]
    assert first == sorted(first, reverse=True)
    assert [c.index for c in ranking][: len(first)] == [
        c.index for c in ranking if c.index in ranking.votes[0].members
    ]


def test_equal_candidates_keep_their_order(reranker: Reranker) -> None:
    same = ["6 * 7 = 42."] * 4
    for method in ("best_of_n", "weighted_vote", "majority_vote"):
        ranking = reranker.rank(QUESTION, same, method=method)  # type: ignore[arg-type]
        assert [c.index for c in ranking] == [0, 1, 2, 3]


def test_rank_many_agrees_with_rank(reranker: Reranker) -> None:
    questions = [QUESTION, "And 6 times 8?"]
    groups = [CANDIDATES, CANDIDATES[:2]]
    assert reranker.rank_many(questions, groups, top_k=3) == [
        reranker.rank(question, group, top_k=3)
        for question, group in zip(questions, groups, strict=True)
    ]


def test_threads_may_share_a_reranker(reranker: Reranker) -> None:
    texts = [*CANDIDATES, r"\boxed{\frac{84}{2}}", r"\boxed{\frac{26}{2}}"]
    expected = reranker.rank(QUESTION, texts, method="weighted_vote")
    assert {len(vote.members) for vote in expected.votes} == {4, 2}  # fractions count with numbers
    with ThreadPoolExecutor(4) as pool:
        rank = lambda _: reranker.rank(QUESTION, texts, method="weighted_vote")  # noqa: E731
        assert all(found == expected for found in pool.map(rank, range(8)))


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("reward", 7.0), ("trajectory", 0.5), ("mean", 0.5), ("min", 0.25), ("last", 0.75),
        ("product", 0.09375), (lambda score: -float(score.step_scores[0]), -0.5),
    ],
)  # fmt: skip
def test_aggregations(how: Any, value: float) -> None:
    assert aggregate(score_of(0.5, 0.25, 0.75, trajectory=0.5), how) == value


def test_an_impossible_aggregation_is_refused(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match=r"'median', expected one of \('reward'"):
        aggregate(score_of(0.5), "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no trajectory score; rank by 'reward'"):
        aggregate(score_of(0.5), "trajectory")
    with pytest.raises(ValueError, match="returned nan"):
        aggregate(score_of(0.5), lambda score: float("nan"))
    with pytest.raises(ValueError, match="'reward', expected one of"):
        aggregate_steps(np.ones(2, np.float32), "reward")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no trajectory score"):  # this PRM has none
        Reranker(scorer, aggregation="trajectory").rank(QUESTION, CANDIDATES)


def test_the_ranking_follows_the_aggregation(scorer: Scorer) -> None:
    ranking = Reranker(scorer, aggregation="min").rank(QUESTION, CANDIDATES)
    lowest = [float(c.step_scores.min()) for c in ranking if c.step_scores is not None]
    assert [c.value for c in ranking] == pytest.approx(lowest)
    assert lowest == sorted(lowest, reverse=True)


def test_what_cannot_be_scored_comes_last_with_its_reason(reranker: Reranker) -> None:
    too_long = "word " * 3000
    other = Trajectory(question="Another?", steps=("x",))
    texts: list[Any] = [" ", CANDIDATES[0], too_long, 3, other, CANDIDATES[1]]
    ranking = reranker.rank(QUESTION, texts, on_error="rank_last", method="weighted_vote")
    assert sorted(c.index for c in ranking[:2]) == [1, 5]
    assert [c.index for c in ranking[2:]] == [0, 2, 3, 4]
    reasons = [str(c.error) for c in ranking[2:]]
    assert "candidate 0 (from 0)" in reasons[0]
    assert isinstance(ranking[3].error, TraceTooLongError)
    assert "is int, expected a str" in reasons[2]
    assert "answers the question 'Another?'" in reasons[3]
    assert all(c.score is None and c.value is None and c.answer is None for c in ranking[2:])


def test_an_error_is_raised_unless_asked_otherwise(reranker: Reranker) -> None:
    with pytest.raises(InvalidTrajectoryError, match=r"candidate 1 \(from 0\)"):
        reranker.rank(QUESTION, [CANDIDATES[0], "  "])
    with pytest.raises(TraceTooLongError, match=r"candidate 1 \(from 0\) of 'What is 6 times 7"):
        reranker.rank(QUESTION, [CANDIDATES[0], "word " * 3000])


def test_arguments_that_make_no_sense_are_named(reranker: Reranker) -> None:
    with pytest.raises(ValueError, match="no candidates"):
        reranker.rank(QUESTION, [])
    with pytest.raises(ValueError, match="top_k is 0"):
        reranker.rank(QUESTION, CANDIDATES, top_k=0)
    with pytest.raises(ValueError, match=r"top_k is 1\.5, expected a whole number"):
        reranker.rank(QUESTION, CANDIDATES, top_k=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"question 0 \(from 0\) is None, expected a string"):
        reranker.rank(None, CANDIDATES)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"candidates for question 0 \(from 0\) are None"):
        reranker.rank(QUESTION, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'best'"):
        reranker.rank(QUESTION, CANDIDATES, method="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got one string"):
        reranker.rank(QUESTION, "6 * 7 = 42")
    with pytest.raises(ValueError, match="2 questions and 1 lists"):
        reranker.rank_many([QUESTION, QUESTION], [CANDIDATES])
    with pytest.raises(ValueError, match="on_error is 'skip'"):
        reranker.rank(QUESTION, CANDIDATES, on_error="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "sum"}, "aggregation is 'sum', expected one of"),
        ({"split": "line"}, "split is 'line', expected one of"),
        ({"overflow": "cut"}, "overflow is 'cut', expected one of"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(
    scorer: Scorer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Reranker(scorer, **settings)


def test_a_folder_is_not_a_scorer() -> None:
    with pytest.raises(ValueError, match=r"scorer is 'artifacts/mine', expected a Scorer: Scorer"):
        Reranker("artifacts/mine")  # type: ignore[arg-type]


def test_a_vote_may_use_answer_functions_of_its_own(scorer: Scorer) -> None:
    own = Reranker(
        scorer,
        extract_answer=lambda text: text.split()[-1],
        same_answer=lambda a, b: a[0] == b[0],
    )
    ranking = own.rank(QUESTION, ["so apple", "so berry", "so avocado"], method="majority_vote")
    assert [(vote.answer, vote.members) for vote in ranking.votes] == [
        ("apple", (0, 2)),
        ("berry", (1,)),
    ]


def test_votes_of_equal_weight_go_to_the_answer_given_first() -> None:
    votes = count_votes(["b", "a", None, "a", "b"], [1.0] * 5)
    assert [vote.answer for vote in votes] == ["b", "a"]


def test_numbers_are_the_same_by_value() -> None:
    answers = ["1,000", "1000.0", "$1000", "1001", None, "1000 apples"]
    assert group_answers(answers) == [[0, 1, 2], [3], [5]]


def test_without_math_verify_a_vote_says_what_to_install(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    texts = [*CANDIDATES, "The answer is x."]
    with monkeypatch.context() as unscored:
        unscored.setattr(scorer, "score_batch", lambda *_, **__: pytest.fail("was scored first"))
        with pytest.raises(MissingExtraError, match=r"\[math\]"):
            Reranker(scorer).rank(QUESTION, texts, method="majority_vote")
    assert len(Reranker(scorer).rank(QUESTION, texts)) == 6


def test_votes_of_plain_numbers_need_no_math_verify(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    votes = Reranker(scorer).rank(QUESTION, CANDIDATES, method="majority_vote").votes
    assert [vote.members for vote in votes] == [(0, 2, 3), (1,)]
    assert not need_algebra(["x/2", None, "x/2"])
    assert need_algebra(["x/2", "0.5"])


def test_a_script_without_a_main_guard_may_compare_answers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rfprm_runtime.answers import AnswerChecker\n"
        "print('begin')\n"
        r"print(AnswerChecker(timeout=60).agree('\\frac{1}{2}', '0.5'))"
        "\n"
    )
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["begin", "True"]


def test_a_script_may_end_without_closing_the_reranker(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rfprm_runtime import Reranker\n"
        "from tiny_models import fake_scorer\n"
        "texts = ['The answer is x/2.', 'The answer is 0.5x.']\n"
        "reranker = Reranker(fake_scorer())\n"
        "ranking = reranker.rank('Half of x?', texts, method='majority_vote')\n"
        "print(ranking.votes[0].members)\n"
    )
    tests = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    # It waits for the child process too, which has the same stderr.
    found = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (found.stdout, found.stderr) == ("(0, 1)\n", "")
    assert found.returncode == 0


def test_math_is_compared_by_meaning() -> None:
    with AnswerChecker() as checker:
        assert checker.agree(r"\sqrt{8}", r"2\sqrt{2}") is True
        assert checker.agree(r"\sqrt{8}", "3") is False
        assert checker.agree(None, "3") is None


CUT_OFF = "<think>3 + 4 = 7, so \\boxed{7}? No"


def test_answers_are_read_from_responses_and_not_from_thoughts() -> None:
    finished = "<think>3 + 4 = 7, so \\boxed{7}? No: 12.</think>\n\nThe answer is 12."
    trajectory = Trajectory.from_text("3 * 4?", finished)
    with fake_scorer() as scorer, Reranker(scorer) as reranker:
        ranking = reranker.rank("3 * 4?", [CUT_OFF, finished, CUT_OFF + ".", trajectory])
        votes = reranker.rank(
            "3 * 4?", [CUT_OFF, finished, CUT_OFF + "."], method="majority_vote"
        ).votes
    answers = {item.index: item.answer for item in ranking}
    assert answers == {0: None, 1: "12", 2: None, 3: "12"}
    assert [vote.answer for vote in votes] == ["12"]


def test_a_templated_prompt_is_taken_off_the_question() -> None:
    prompt = "<|im_start|>user\n3 * 4?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    with fake_scorer() as scorer, Reranker(scorer) as reranker:
        cut_off, finished = reranker.rank(prompt, ["3 + 4 = 7", "12</think>It is 12."])
    for item in (cut_off, finished):
        assert item.trajectory is not None
        assert item.trajectory.question == "3 * 4?"
    assert {item.answer for item in (cut_off, finished)} == {None, "12"}
