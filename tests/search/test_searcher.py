"""Searches find what a search by hand finds, report their cost, and leave nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest

from counting_backend import CountingBackend
from rfprm_runtime import InvalidTrajectoryError, Reranker, Scorer
from rfprm_runtime.search import (
    BeamSearch,
    BestFirstSearch,
    BestOfN,
    Budget,
    DiverseTreeSearch,
    Node,
    Proposal,
    ProposerError,
    Request,
    Searcher,
    SearchResult,
    SearchTree,
)
from search.policies import DEPTH, KnownPolicy, saying, step_after
from tiny_models import KINDS, Kind, scorer_of

QUESTION = "How many legs do three cats have?"
Path = tuple[str, ...]


def _children(path: Path, count: int) -> list[Path]:
    return [(*path, step_after(path, number).text) for number in range(count)]


def _mean(scorer: Scorer, path: Path) -> float:
    return float(scorer.score(QUESTION, path).step_scores.mean(dtype=np.float64))


def _reward(scorer: Scorer, path: Path) -> float:
    return scorer.score(QUESTION, path, ["done"]).reward


def _found(result: SearchResult) -> list[Path]:
    return [result.tree.path(node) for node in result.finished]


def test_beam_search_keeps_the_best_of_each_round(scorer: Scorer) -> None:
    result = Searcher(scorer, KnownPolicy(), BeamSearch(2, 3)).search(QUESTION)
    beams: list[Path] = sorted(_children((), 6), key=lambda path: -_mean(scorer, path))[:2]
    for _ in range(DEPTH - 1):
        extended = [child for beam in beams for child in _children(beam, 3)]
        kept = sorted(extended, key=lambda path: -_mean(scorer, path))[:2]
        beams, last = kept, extended
    # All traces complete in the last round are kept, in the order of Eq. 11.
    assert _found(result) == sorted(last, key=lambda path: -_reward(scorer, path))
    assert result.stopped == "done"
    assert (result.spent.num_steps, result.spent.num_tokens) == (6 + 6 + 6, 90)


def test_trees_of_a_diverse_search_do_not_compete(scorer: Scorer) -> None:
    result = Searcher(scorer, KnownPolicy(), DiverseTreeSearch(2, 3)).search(QUESTION)
    last: list[Path] = []
    first = _children((), 6)
    for tree in range(2):
        best = max(first[tree::2], key=lambda path: _mean(scorer, path))
        for _ in range(DEPTH - 1):
            last_of_tree = _children(best, 3)
            best = max(last_of_tree, key=lambda path: _mean(scorer, path))
        last += last_of_tree
    assert _found(result) == sorted(last, key=lambda path: -_reward(scorer, path))


def test_best_first_returns_to_an_earlier_branch(scorer: Scorer) -> None:
    strategy = BestFirstSearch(num_finished=4, num_expansions=2)
    result = Searcher(scorer, KnownPolicy(), strategy).search(QUESTION)
    open_paths: list[Path] = [()]
    finished: list[Path] = []
    while len(finished) < 4:
        best = max(open_paths, key=lambda path: _mean(scorer, path) if path else 0.0)
        open_paths.remove(best)
        children = _children(best, 2)
        (finished if len(best) + 1 == DEPTH else open_paths).extend(children)
    assert sorted(_found(result)) == sorted(finished)
    assert not result.tree.with_state("pruned")


def test_best_of_n_ranks_whole_traces(scorer: Scorer) -> None:
    def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        # The second and third traces begin alike: one branch, twice.
        return [
            [step_after(r.steps, min(i, 1) if not r.steps else i) for i in range(r.count)]
            for r in requests
        ]

    result = Searcher(scorer, policy, BestOfN(3)).search(QUESTION)
    assert sum(node.num_proposed for node in result.finished) == 3
    assert result.spent.num_steps == 3 * DEPTH
    rewards = [_reward(scorer, path) for path in _found(result)]
    assert rewards == sorted(rewards, reverse=True)
    assert [node.final_value for node in result.finished] == rewards


@pytest.mark.parametrize("strategy", [BeamSearch(2, 2), BestFirstSearch(3, 2, 2)])
def test_scores_match_those_of_whole_traces(scorer: Scorer, strategy: Any) -> None:
    result = Searcher(scorer, KnownPolicy(), strategy).search(QUESTION)
    assert result.best is not None
    for node in result.tree.nodes[1:]:
        path = result.tree.path(node)
        whole = scorer.score(QUESTION, path, node.response)
        assert node.step_scores.tolist() == whole.step_scores.tolist()
        assert node.score is None or node.score == whole
    assert result.trajectory is not None
    assert result.trajectory.response == ("done",)


def test_only_new_steps_are_computed_and_every_past_is_freed(
    scorer: Scorer, backend: CountingBackend
) -> None:
    result = Searcher(scorer, KnownPolicy(), BestOfN(4)).search(QUESTION)
    computed = backend.num_tokens
    backend.num_tokens = 0
    session = scorer.session(QUESTION)
    session.fork()
    opening = backend.num_tokens
    backend.num_tokens = 0
    for node in result.finished:
        with session.fork() as one:
            one.extend(result.tree.path(node))
            one.score(node.response)
    assert computed == opening + backend.num_tokens
    session.close()
    assert scorer.session_bytes == 0


@pytest.mark.parametrize("value", ["reward", "trajectory", "min", "last", "product", np.median])
def test_the_value_of_branches_can_be_chosen(scorer: Scorer, value: Any) -> None:
    result = Searcher(scorer, KnownPolicy(), BeamSearch(2, 2), value=value).search(QUESTION)
    for node in result.tree.nodes[1:]:
        score = scorer.score(QUESTION, result.tree.path(node), node.response)
        steps = score.step_scores.astype(float)
        expected = {
            "reward": score.reward,
            "trajectory": score.trajectory_score,
            "min": steps.min(),
            "last": steps[-1],
            "product": steps.prod(),
        }.get(value, np.median(steps))
        assert node.value == pytest.approx(expected)


def test_the_value_of_complete_traces_can_be_chosen(scorer: Scorer) -> None:
    result = Searcher(scorer, KnownPolicy(), final="min").search(QUESTION)
    lowest = [float(node.step_scores.min()) for node in result.finished]
    assert [node.final_value for node in result.finished] == lowest == sorted(lowest, reverse=True)


@pytest.mark.parametrize(
    ("budget", "stopped"),
    [
        (Budget(max_tokens=31), "max_tokens"),
        (Budget(max_steps=7), "max_steps"),
        (Budget(max_seconds=1e-9), "max_seconds"),
    ],
)
def test_the_budget_ends_the_search(scorer: Scorer, budget: Budget, stopped: str) -> None:
    result = Searcher(scorer, KnownPolicy(), BeamSearch(2, 2), budget=budget).search(QUESTION)
    assert result.stopped == stopped
    if budget.max_steps is not None:
        assert result.spent.num_steps == 7
    if budget.max_tokens is not None:
        # 4 steps of 5 tokens, then 4 more; the third round never starts.
        assert result.spent.num_tokens == 40
    if budget.max_seconds is not None:
        assert result.best is None
        assert result.trajectory is None


def test_traces_without_an_end_are_given_up_at_max_depth(scorer: Scorer) -> None:
    proposer: Any = saying(Proposal("on and on", 3))
    result = Searcher(scorer, proposer, budget=Budget(max_depth=4)).search(QUESTION)
    assert [node.depth for node in result.tree.with_state("too_deep")] == [4]
    assert (result.best, result.stopped) == (None, "max_depth")


def test_a_search_with_enough_finished_traces_is_done_despite_deep_ones(scorer: Scorer) -> None:
    def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        found = [Proposal("12", 1, finished=True), Proposal("on", 1), Proposal("and on", 1)]
        return [found[: r.count] for r in requests]

    strategy = BestFirstSearch(num_finished=2, num_expansions=3)
    result = Searcher(scorer, policy, strategy, budget=Budget(max_depth=2)).search(QUESTION)
    assert result.tree.with_state("too_deep")
    assert (len(result.finished), result.stopped) == (2, "done")


def test_hopeless_branches_are_given_up(scorer: Scorer) -> None:
    first = [float(scorer.score(QUESTION, path).step_scores[0]) for path in _children((), 4)]
    limit = float(np.median(first))
    searcher = Searcher(scorer, KnownPolicy(), BestOfN(4), min_step_score=limit)
    result = searcher.search(QUESTION)
    hopeless = [node for node in result.tree.nodes if node.state == "hopeless"]
    assert {node.step for node in hopeless if node.depth == 1} == {
        path[0] for path, score in zip(_children((), 4), first, strict=True) if score < limit
    }
    expanded = {node.parent for node in result.tree.nodes}
    assert not expanded & {node.id for node in hopeless}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", ["mean", "min", "last", "reward"])
def test_scores_below_zero_steer_like_others(kind: Kind, value: Any) -> None:
    with scorer_of(kind, score_prefixes=kind == "sequence") as scorer:
        result = Searcher(scorer, KnownPolicy(), BestOfN(6), value=value).search(QUESTION)
        paths = [result.tree.path(node) for node in result.finished]
        found = [scorer.score(QUESTION, path, ["done"]) for path in paths]
    assert result.tree.with_state("hopeless") == []
    assert [node.final_value for node in result.finished] == [score.reward for score in found]
    rewards = [score.reward for score in found]
    assert rewards == sorted(rewards, reverse=True)
    assert min(rewards) < 0
    votes = result.vote()
    assert [vote.answer for vote in votes] == ["done"]
    assert votes[0].weight > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_search_needs_is_said_before_it_begins(kind: Kind) -> None:
    if kind == "sequence":
        with (
            scorer_of(kind) as scorer,
            pytest.raises(ValueError, match="no step scores; load it with score_prefixes=True"),
        ):
            Searcher(scorer, KnownPolicy())
    with scorer_of(kind, score_prefixes=kind == "sequence") as scorer:
        with pytest.raises(ValueError, match=r"value is 'product', .* a product needs prob"):
            Searcher(scorer, KnownPolicy(), value="product")
        if kind == "signed":
            with pytest.raises(ValueError, match=r"min_step_score is 1.5, but .*\[-1, 1\]"):
                Searcher(scorer, KnownPolicy(), min_step_score=1.5)
        else:
            Searcher(scorer, KnownPolicy(), min_step_score=-25.0)


def test_equal_proposals_are_scored_once_and_counted(
    scorer: Scorer, backend: CountingBackend
) -> None:
    same = Proposal("12", 2, finished=True)
    proposer: Any = saying(same, Proposal(" 12\n", 2, finished=True), same)
    result = Searcher(scorer, proposer, BestOfN(3)).search(QUESTION)
    assert [node.num_proposed for node in result.finished] == [3]
    assert (result.spent.num_steps, result.spent.num_tokens) == (3, 6)


def test_a_policy_may_end_without_another_step(scorer: Scorer) -> None:
    def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        return [
            [Proposal("", 1, finished=True) if r.steps else Proposal("12", 2)] for r in requests
        ]

    result = Searcher(scorer, policy).search(QUESTION)
    assert _found(result) == [("12",)]
    assert result.best is not None
    assert result.best.score == scorer.score(QUESTION, ["12"])


def test_a_step_that_cannot_be_scored_fails_alone(scorer: Scorer) -> None:
    too_long = "x" * 600
    proposer: Any = saying(
        Proposal("12", 1, finished=True),
        Proposal(too_long, 1, finished=True),
        Proposal("", 1, finished=True),
    )
    result = Searcher(scorer, proposer, BestOfN(3)).search(QUESTION)
    assert _found(result) == [("12",)]
    reasons = [node.reason for node in result.tree.with_state("failed")]
    assert result.num_failed == 2
    assert "positions" in reasons[0]
    assert "step" in reasons[1]


def test_an_overlong_step_costs_the_others_no_pass(
    scorer: Scorer, backend: CountingBackend
) -> None:
    """The round is one batch, with or without it."""

    def passes(*texts: str) -> list[int]:
        backend.passes.clear()
        proposer: Any = saying(*(Proposal(text, 1, finished=True) for text in texts))
        result = Searcher(scorer, proposer, BestOfN(len(texts))).search(QUESTION)
        assert len(result.finished) == 4
        return list(backend.passes)

    good = ["12", "13", "14", "15"]
    assert passes(*good[:2], "x" * 600, *good[2:]) == passes(*good)


def test_many_questions_take_one_call_per_round(scorer: Scorer) -> None:
    questions = [QUESTION, "2 + 2?", "And 3 + 3?"]
    policy = KnownPolicy()
    together = Searcher(scorer, policy, BeamSearch(2, 2)).search_many(questions)
    assert [len(call) for call in policy.calls] == [3, 6, 6]
    for question, result in zip(questions, together, strict=True):
        alone = Searcher(scorer, KnownPolicy(), BeamSearch(2, 2)).search(question)
        assert result.tree.as_dict() == alone.tree.as_dict()


def test_a_question_that_cannot_be_searched_leaves_the_others_alone(scorer: Scorer) -> None:
    searcher = Searcher(scorer, KnownPolicy())
    bad, good = searcher.search_many([" ", QUESTION], on_error="return")
    assert isinstance(bad.error, InvalidTrajectoryError)
    assert (bad.stopped, bad.finished) == ("failed", ())
    assert good.error is None
    assert good.best is not None
    with pytest.raises(InvalidTrajectoryError):
        searcher.search_many([QUESTION, " "])
    assert scorer.session_bytes == 0


def test_a_branch_without_proposals_leaves_the_others_alone(scorer: Scorer) -> None:
    def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        known = KnownPolicy()(requests)
        return [
            [] if r.steps == (step_after((), 0).text,) else found
            for r, found in zip(requests, known, strict=True)
        ]

    result = Searcher(scorer, policy, BestOfN(3)).search(QUESTION)
    assert len(result.finished) == 2
    assert [node.reason for node in result.tree.with_state("failed")] == [
        "the proposer returned no proposals"
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned NoneType for 1 requests"),
        ([], "returned 0 lists for 1 requests"),
        ([None], "returned NoneType, expected a list of at most 16 proposals"),
        (["12"], "returned str, expected a list of at most 16 proposals"),
        ([Proposal("12", 1)], r"returned 1 proposals for 1 requests, expected .* \[\[Proposal"),
        ([["12"]], "returned a list with a str, expected a Proposal"),
        ([[Proposal(None, 1)]], "text is NoneType, expected a string"),  # type: ignore[arg-type]
        ([[Proposal("12", 1, response="so 12")]], "response is str"),  # type: ignore[arg-type]
        ([[Proposal("12", -1)]], "num_tokens is -1"),
        ([[Proposal("12", None)]], "num_tokens is None"),  # type: ignore[arg-type]
        ([[Proposal("12", 1)] * 17], "returned 17 proposals, expected a list of at most 16"),
    ],
)
def test_answers_of_the_wrong_shape_stop_the_search(
    scorer: Scorer, answer: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Searcher(scorer, lambda requests: answer).search(QUESTION)
    assert scorer.session_bytes == 0


def test_a_plain_function_that_returns_a_coroutine_is_refused(scorer: Scorer) -> None:
    async def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        return KnownPolicy()(requests)

    with pytest.raises(ValueError, match="make it a coroutine function"):
        Searcher(scorer, lambda requests: policy(requests)).search(QUESTION)


def test_an_async_proposer_without_the_outer_list_is_told(scorer: Scorer) -> None:
    async def policy(requests: Sequence[Request]) -> Any:
        return KnownPolicy()(requests)[0]

    with pytest.raises(ValueError, match=r"16 proposals for 1 requests.* gets one per call"):
        Searcher(scorer, policy).search(QUESTION)


def test_a_blank_step_fails_alone(scorer: Scorer, tmp_path: FilePath) -> None:
    def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        known = KnownPolicy()(requests)
        return [[Proposal(" \n", 2), *found[1:]] for found in known]

    result = Searcher(scorer, policy, BestOfN(3)).search(QUESTION)
    # One of the three traces is lost at once; the others have one good next step each.
    failed = result.tree.with_state("failed")
    assert {node.reason for node in failed} == {
        "the proposed step is blank and does not finish the trace"
    }
    assert [node.depth for node in failed] == [1, 2, 2]
    assert (result.num_failed, result.stopped) == (3, "done")
    assert result.spent.num_tokens == sum(node.num_tokens for node in result.tree.nodes)
    result.tree.save(tmp_path / "tree.json")
    assert SearchTree.load(tmp_path / "tree.json").as_dict() == result.tree.as_dict()


def test_no_scorable_first_step_is_an_error(scorer: Scorer) -> None:
    proposer: Any = saying(Proposal("", 1), Proposal("x" * 600, 1))
    with pytest.raises(ProposerError, match="no first step: the proposed step is blank"):
        Searcher(scorer, proposer).search(QUESTION)


def test_errors_of_a_proposer_are_not_swallowed(scorer: Scorer) -> None:
    def out_of_memory(requests: Sequence[Request]) -> list[list[Proposal]]:
        raise MemoryError("no more")

    with pytest.raises(MemoryError):
        Searcher(scorer, out_of_memory).search(QUESTION)


def test_votes_count_traces_as_often_as_they_were_written(scorer: Scorer) -> None:
    right = Proposal("The answer is 12.", 1, finished=True)
    proposer: Any = saying(
        right, right, Proposal("#### 13", 1, finished=True), Proposal("So 12.0", 1, finished=True)
    )
    result = Searcher(scorer, proposer, BestOfN(4)).search(QUESTION)
    votes = result.vote(weighted=False)
    assert [(vote.answer, vote.weight) for vote in votes] in (
        [("12", 3.0), ("13", 1.0)],
        [("12.0", 3.0), ("13", 1.0)],
    )
    assert sum(vote.weight for vote in result.vote()) == pytest.approx(
        sum(node.num_proposed * (node.final_value or 0.0) for node in result.finished)
    )


def test_votes_merge_equivalent_answers(scorer: Scorer) -> None:
    texts = ["The answer is x/2.", "The answer is 0.5x.", "The answer is 3."]
    proposer: Any = saying(*(Proposal(text, 1, finished=True) for text in texts))
    result = Searcher(scorer, proposer, BestOfN(3)).search(QUESTION)
    ranking = Reranker(scorer).rank(QUESTION, texts, method="majority_vote")
    assert [vote.weight for vote in result.vote(weighted=False)] == [2.0, 1.0]
    assert [vote.weight for vote in ranking.votes] == [2.0, 1.0]
    own = result.vote(weighted=False, same_answer=lambda answer, other: False)
    assert [vote.weight for vote in own] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda scorer: Searcher(scorer, KnownPolicy(), value="median"),  # type: ignore[arg-type]
        lambda scorer: Searcher(scorer, KnownPolicy(), final="median"),  # type: ignore[arg-type]
        lambda scorer: BeamSearch(0),
        lambda scorer: DiverseTreeSearch(2, 0),
        lambda scorer: BestFirstSearch(width=0),
        lambda scorer: BestOfN(0),
        lambda scorer: BeamSearch(num_beams="4"),  # type: ignore[arg-type]
        lambda scorer: Budget(max_steps=0),
        lambda scorer: Budget(max_depth=None),  # type: ignore[arg-type]
        lambda scorer: Budget(max_seconds=0),
        lambda scorer: Budget(max_seconds=float("nan")),
        lambda scorer: Searcher(scorer, KnownPolicy(), min_step_score=float("nan")),
        lambda scorer: Searcher("artifacts/mine", KnownPolicy()),  # type: ignore[arg-type]
        lambda scorer: Searcher(scorer, KnownPolicy),  # type: ignore[arg-type]
        lambda scorer: Searcher(scorer, KnownPolicy(), BeamSearch),  # type: ignore[arg-type]
        lambda scorer: Searcher(scorer, KnownPolicy(), budget=400),  # type: ignore[arg-type]
        lambda scorer: Searcher(scorer, KnownPolicy()).search_many(QUESTION),
        lambda scorer: Searcher(scorer, KnownPolicy()).search_many([], on_error="ignore"),
    ],
)
def test_wrong_arguments_are_named(scorer: Scorer, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|at least"):
        wrong(scorer)


def test_users_can_write_a_strategy(scorer: Scorer) -> None:
    class OnlyTheFirst:
        def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Any:
            from rfprm_runtime.search import Choice

            return Choice([(node, 2) for node in open_nodes[:1]], open_nodes[1:])

    result = Searcher(scorer, KnownPolicy(), OnlyTheFirst()).search(QUESTION)
    first: Path = ()
    for _ in range(DEPTH - 1):
        first = _children(first, 1)[0]
    assert sorted(_found(result)) == sorted(_children(first, 2))


# Async proposers


class Eventual:
    """Answers each request by itself, in another order than it was asked."""

    def __init__(self, fail_at: Path | None = None) -> None:
        self.fail_at = fail_at

    async def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        [request] = requests
        for _ in range(20 - sum(map(ord, "".join(request.steps))) % 20):
            await asyncio.sleep(0.001)
        if request.steps == self.fail_at:
            raise ProposerError("the line is dead")
        return KnownPolicy()(requests)


@pytest.mark.parametrize("strategy", [BeamSearch(3, 2), BestOfN(5), DiverseTreeSearch(2, 2)])
def test_the_tree_does_not_depend_on_which_answer_comes_first(
    scorer: Scorer, strategy: Any
) -> None:
    result = asyncio.run(Searcher(scorer, Eventual(), strategy).search_async(QUESTION))
    expected = Searcher(scorer, KnownPolicy(), strategy).search(QUESTION)
    assert result.tree.as_dict() == expected.tree.as_dict()


def test_proposals_are_scored_while_others_are_awaited(scorer: Scorer) -> None:
    scored = asyncio.Event()
    loop: asyncio.AbstractEventLoop | None = None
    extend = scorer.extend_sessions

    def noticed(*arguments: Any, **options: Any) -> Any:
        scores = extend(*arguments, **options)
        assert loop is not None
        loop.call_soon_threadsafe(scored.set)
        return scores

    scorer.extend_sessions = noticed  # type: ignore[method-assign]

    async def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        nonlocal loop
        [request] = requests
        loop = asyncio.get_running_loop()
        if not request.steps:
            scored.clear()
        elif request.steps == (step_after((), 1).text,):
            # Answers only after the step of the other branch has been scored.
            scored.clear()
            await asyncio.wait_for(scored.wait(), 20)
        return KnownPolicy()(requests)

    result = Searcher(scorer, policy, BestOfN(2)).search(QUESTION)
    assert len(result.finished) == 2


def test_a_proposer_error_fails_one_branch_alone(scorer: Scorer) -> None:
    lost = (step_after((), 0).text,)
    result = Searcher(scorer, Eventual(fail_at=lost), BestOfN(3)).search(QUESTION)
    assert len(result.finished) == 2
    assert [node.reason for node in result.tree.with_state("failed")] == ["the line is dead"]


def test_no_first_step_is_an_error(scorer: Scorer) -> None:
    searcher = Searcher(scorer, Eventual(fail_at=()))
    with pytest.raises(ProposerError, match="the line is dead"):
        searcher.search(QUESTION)
    [result] = searcher.search_many([QUESTION], on_error="return")
    assert isinstance(result.error, ProposerError)


def test_an_error_cancels_pending_requests(scorer: Scorer) -> None:
    cancelled: list[Path] = []

    async def policy(requests: Sequence[Request]) -> list[list[Proposal]]:
        [request] = requests
        if request.steps == (step_after((), 0).text,):
            raise MemoryError("no more")
        try:
            await asyncio.sleep(60 if request.steps else 0)
        except asyncio.CancelledError:
            cancelled.append(request.steps)
            raise
        return KnownPolicy()(requests)

    with pytest.raises(MemoryError):
        Searcher(scorer, policy, BestOfN(3)).search(QUESTION)
    assert len(cancelled) == 2
    assert scorer.session_bytes == 0


def test_inside_an_event_loop_the_error_names_search_async(scorer: Scorer) -> None:
    async def inside() -> None:
        Searcher(scorer, KnownPolicy()).search(QUESTION)

    with pytest.raises(RuntimeError, match="await search_async"):
        asyncio.run(inside())
