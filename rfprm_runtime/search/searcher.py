"""Searcher: a question in, traces that a policy wrote under a PRM's guidance out.

choose branches → propose next steps → score them → grow the tree
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.grouping import need_algebra
from rfprm_runtime.errors import UNSCORABLE, InvalidArgumentError, InvalidOperationError, RfprmError
from rfprm_runtime.ground.arguments import check_choice, check_has
from rfprm_runtime.ranking import Vote, count_votes, text_of
from rfprm_runtime.scorer import Scorer, check_has_step_scores
from rfprm_runtime.scores.aggregation import (
    Aggregation,
    StepAggregation,
    Weigh,
    aggregate,
    aggregate_steps,
    check_aggregation,
    weighing,
)
from rfprm_runtime.scores.bounds import check_threshold, step_bounds
from rfprm_runtime.search.budget import Budget, Spent
from rfprm_runtime.search.expansion import Draft, Expanded, expand
from rfprm_runtime.search.own_loop import run_on_own_loop
from rfprm_runtime.search.proposals import Proposer, ProposerError, Request, is_async
from rfprm_runtime.search.strategies import BeamSearch, Strategy
from rfprm_runtime.search.tree import Node, SearchTree
from rfprm_runtime.types import Float32Array, Trajectory, TrajectoryScore

OnError = Literal["raise", "return"]


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    question: str
    finished: tuple[Node, ...]
    """Complete traces, best first."""
    stopped: str
    """Why the search ended: the budget limit it reached (``max_tokens``, ``max_steps``,
    ``max_seconds``; ``max_depth`` if no branch is open and a trace was given up at that length),
    ``failed``, or otherwise ``done``."""
    spent: Spent
    tree: SearchTree = field(repr=False)
    error: RfprmError | None = None
    """Why the search found nothing at all."""
    weigh: Weigh = field(default=float, repr=False)
    """What a final value weighs in :meth:`vote`."""

    @property
    def best(self) -> Node | None:
        """The best complete trace, or None."""
        return self.finished[0] if self.finished else None

    @property
    def trajectory(self) -> Trajectory | None:
        """The trajectory of the best complete trace, or None."""
        return None if self.best is None else self.tree.trajectory(self.best)

    @property
    def num_failed(self) -> int:
        """Number of steps that could not be proposed or scored; ``tree`` says why, node by node."""
        return len(self.tree.with_state("failed"))

    def vote(
        self,
        *,
        weighted: bool = True,
        extract_answer: Callable[[str], str | None] = final_answer,
        same_answer: Callable[[str, str], bool | None] | None = None,
    ) -> tuple[Vote, ...]:
        """Answers of the complete traces by summed value (unweighted: by count), largest first.
        Values that can be negative are brought to [0, 1] before.

        The members of a vote are indices into ``finished``. A trace written several times counts
        that often. The arguments, and which answers count as the same, are those of
        :class:`~rfprm_runtime.Reranker`. Each call starts its own math-verify process; for many
        votes, pass ``same_answer=checker.agree`` of one
        :class:`~rfprm_runtime.answers.checker.AnswerChecker`.

        Raises :class:`MissingExtraError` if math-verify is needed and not installed.
        """
        answers = [extract_answer(text_of(self.tree.trajectory(node))) for node in self.finished]
        weights = [
            node.num_proposed * (self.weigh(node.final_value or 0.0) if weighted else 1.0)
            for node in self.finished
        ]
        if same_answer is not None or not need_algebra(answers):
            return count_votes(answers, weights, same_answer=same_answer)
        with AnswerChecker() as checker:
            return count_votes(answers, weights, verify=checker.agree)


@dataclass
class _Search:
    """The search for one question, in progress."""

    tree: SearchTree
    spent: Spent = field(default_factory=Spent)
    stopped: str = ""
    error: RfprmError | None = None

    def fail(self, error: RfprmError) -> None:
        self.error, self.stopped = error, "failed"

    def result(self, weigh: Weigh) -> SearchResult:
        finished = sorted(
            self.tree.with_state("finished"), key=lambda node: (-(node.final_value or 0.0), node.id)
        )
        return SearchResult(
            self.tree.question,
            tuple(finished),
            self.stopped,
            self.spent,
            self.tree,
            self.error,
            weigh,
        )


class Searcher:
    """Searches with one scorer, one proposer and one strategy. Threads and tasks may share it,
    because it keeps no state between searches."""

    def __init__(
        self,
        scorer: Scorer,
        proposer: Proposer,
        strategy: Strategy | None = None,
        *,
        budget: Budget | None = None,
        value: Aggregation | Callable[[Float32Array], float] = "mean",
        final: Aggregation | Callable[[TrajectoryScore], float] = "reward",
        min_step_score: float | None = None,
    ) -> None:
        """``strategy`` defaults to beam search.

        ``value`` compares branches: an aggregation of the step scores so far, or a function of
        them (float32 [T]); ``reward`` and ``trajectory`` score each unfinished trace as if it
        ended there, at the cost of one more marker. ``final`` compares complete traces. A branch
        whose newest step scores below ``min_step_score`` is given up at once; None keeps all. The
        ``budget`` applies to each question; the default only limits traces to 40 steps
        (:class:`Budget`).

        Raises ``ValueError`` for an unknown aggregation, a ``min_step_score`` outside the bounds of
        the scores, a scorer without step scores, or an argument that is not a scorer, proposer,
        strategy or budget.
        """
        check_has("scorer", scorer, "extend_sessions", "a Scorer: Scorer.load(FOLDER)")
        check_has("proposer", proposer, "__call__", "a function or a callable object")
        if strategy is not None:
            check_has("strategy", strategy, "choose", "an object such as BeamSearch()")
        if budget is not None:
            check_has("budget", budget, "max_depth", "a Budget: Budget(max_tokens=…)")
        manifest = getattr(scorer, "manifest", None)
        if isinstance(scorer, Scorer):
            check_has_step_scores(scorer)
        for name, how in (("value", value), ("final", final)):
            check_aggregation(name, how, manifest, score_prefixes=True)
        if min_step_score is not None:
            bounds = None if manifest is None else step_bounds(manifest)
            check_threshold("min_step_score", min_step_score, bounds, "the PRM's step scores")
        self._scorer, self._proposer = scorer, proposer
        self._strategy = strategy if strategy is not None else BeamSearch()
        self._budget = budget if budget is not None else Budget()
        self._value, self._final = value, final
        self._min_step_score = -np.inf if min_step_score is None else min_step_score
        self._weigh: Weigh = weighing(manifest, final)

    def search(self, question: str) -> SearchResult:
        """Search for one question.

        A step that cannot be scored, or a branch for which the proposer raises
        :class:`ProposerError`, becomes a failed node of the tree; the other branches continue.
        Raises :class:`InvalidTrajectoryError` for a blank question, :class:`TraceTooLongError` for
        one that leaves no positions, :class:`ProposerError` if there is no first step,
        ``ValueError`` if the proposer's answer has the wrong shape, and whatever else it raises.
        """
        return self.search_many([question])[0]

    def search_many(
        self, questions: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[SearchResult]:
        """Search for many questions, as :meth:`search` does for one. With a plain proposer they
        advance together: each round makes one call of the proposer and one batch for the scorer.

        With ``on_error="return"``, a question that fails has its error in its result.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return run_on_own_loop(lambda: self.search_many_async(questions, on_error=on_error))
        raise InvalidOperationError(
            "an event loop is already running; await search_async or search_many_async instead"
        )

    async def search_async(self, question: str) -> SearchResult:
        """:meth:`search`, awaited. Proposals of an async proposer are scored in a thread while
        others are still awaited."""
        return (await self.search_many_async([question]))[0]

    async def search_many_async(
        self, questions: Sequence[str], *, on_error: OnError = "raise"
    ) -> list[SearchResult]:
        """:meth:`search_many`, awaited. With an async proposer each question advances by itself."""
        if isinstance(questions, str):
            raise InvalidArgumentError("questions is one string, expected a list of questions")
        check_choice("on_error", on_error, get_args(OnError))
        searches = [_Search(SearchTree(question)) for question in questions]
        with self._sessions(searches, on_error):
            if is_async(self._proposer):
                await _all_or_none([self._run([search], on_error) for search in searches])
            else:
                await self._run(searches, on_error)
        return [search.result(self._weigh) for search in searches]

    @contextlib.contextmanager
    def _sessions(self, searches: Sequence[_Search], on_error: OnError) -> Iterator[None]:
        """Open sessions for the roots; close every session that is still open at the end."""
        try:
            for search in searches:
                try:
                    search.tree.root.session = self._scorer.session(search.tree.question)
                except UNSCORABLE as error:
                    search.fail(error)
            _raise_first(searches, on_error)
            yield
        finally:
            for search in searches:
                for node in search.tree.nodes:
                    node.free()

    async def _run(self, searches: Sequence[_Search], on_error: OnError) -> None:
        while True:
            requests = [
                (search, node, request)
                for search in searches
                for node, request in self._next_requests(search)
            ]
            if not requests:
                return
            done = await expand(
                self._scorer,
                self._proposer,
                [(node, request) for _, node, request in requests],
                score_unfinished=self._value in ("reward", "trajectory"),
            )
            for (search, node, _), expanded in zip(requests, done.expanded, strict=True):
                self._grow(search, node, expanded)
            for search in {id(search): search for search, *_ in requests}.values():
                search.spent.num_rounds += 1
                search.spent.proposing_seconds += done.proposing_seconds
                search.spent.scoring_seconds += done.scoring_seconds
            _raise_first(searches, on_error)

    def _next_requests(self, search: _Search) -> list[tuple[Node, Request]]:
        """What to ask for next for one question; nothing if its search is over."""
        tree, budget = search.tree, self._budget
        if search.stopped:
            return []
        search.stopped = search.spent.exhausted(budget) or ""
        if search.stopped:
            return []
        choice = self._strategy.choose(tree.with_state("open"), tree.with_state("finished"))
        for node in choice.prune:
            node.leave("pruned")
        left = np.inf if budget.max_steps is None else budget.max_steps - search.spent.num_steps
        requests = []
        for node, wanted in choice.expand:
            count = int(min(wanted, left))
            if count > 0:
                left -= count
                requests.append((node, Request(tree.question, tree.path(node), count)))
        if not requests:
            is_cut = tree.with_state("too_deep") and not tree.with_state("open")
            search.stopped = "max_depth" if is_cut else "done"
        return requests

    def _grow(self, search: _Search, node: Node, expanded: Expanded) -> None:
        search.spent.num_steps += expanded.num_steps
        search.spent.num_tokens += expanded.num_tokens
        if expanded.error:
            node.leave("failed", expanded.error)
            if node.parent is None:
                search.fail(ProposerError(expanded.error))
            return
        node.leave("expanded")
        for draft in expanded.drafts:
            self._add(search.tree, draft)
        if node.parent is None and all(draft.error for draft in expanded.drafts):
            search.fail(ProposerError(f"there is no first step: {expanded.drafts[0].error}"))

    def _add(self, tree: SearchTree, draft: Draft) -> None:
        proposal = draft.proposal
        node = tree.add(draft.parent, proposal.text.strip())
        node.session, node.num_proposed = draft.session, draft.num_proposed
        node.num_tokens = proposal.num_tokens
        node.response, node.step_scores = tuple(proposal.response), draft.step_scores
        if draft.error:
            node.leave("failed", draft.error)
            return
        node.value = self._value_of(draft)
        if proposal.finished:
            assert draft.score is not None
            node.score, node.final_value = draft.score, aggregate(draft.score, self._final)
            node.leave("finished")
        elif draft.step_scores[-1] < self._min_step_score:
            node.leave("hopeless", f"step score below {self._min_step_score:g}")
        elif node.depth >= self._budget.max_depth:
            node.leave("too_deep", f"{node.depth} steps without an end")

    def _value_of(self, draft: Draft) -> float:
        how = self._value
        if callable(how) or how in get_args(StepAggregation):
            return aggregate_steps(draft.step_scores, how)  # type: ignore[arg-type]
        assert draft.score is not None
        return aggregate(draft.score, how)


def _raise_first(searches: Sequence[_Search], on_error: OnError) -> None:
    errors = [search.error for search in searches if search.error is not None]
    if errors and on_error == "raise":
        raise errors[0]


async def _all_or_none(runs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently; the first error cancels the others."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
