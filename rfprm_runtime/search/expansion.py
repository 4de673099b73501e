"""One round of a search: ask for next steps and score them, overlapping the two if possible."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rfprm_runtime.errors import RfprmError
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.search.proposals import (
    Proposal,
    Proposals,
    Proposer,
    ProposerError,
    Request,
    is_async,
    propose,
)
from rfprm_runtime.search.tree import Node
from rfprm_runtime.sessions.session import Session
from rfprm_runtime.types import Float32Array, TrajectoryScore

_BLANK = "the proposed step is blank and does not finish the trace"


@dataclass
class Draft:
    """A proposal that may become a node of the tree."""

    parent: Node
    proposal: Proposal
    num_proposed: int = 1
    session: Session | None = None
    step_scores: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))
    score: TrajectoryScore | None = None
    error: str = ""

    @property
    def scored_session(self) -> Session:
        assert self.session is not None
        return self.session

    def fail(self, error: Exception) -> None:
        self.error = str(error)
        if self.session is not None:
            self.session.close()


@dataclass
class Expanded:
    """The outcome of one request."""

    drafts: list[Draft] = field(default_factory=list)
    num_steps: int = 0
    """Number of proposals, duplicates included."""
    num_tokens: int = 0
    error: str = ""


@dataclass
class Round:
    """The outcomes of all requests, in order, and the time they took."""

    expanded: list[Expanded]
    proposing_seconds: float = 0.0
    scoring_seconds: float = 0.0


async def expand(
    scorer: Scorer,
    proposer: Proposer,
    requests: Sequence[tuple[Node, Request]],
    *,
    score_unfinished: bool,
) -> Round:
    """Scored proposals for each request. ``score_unfinished``: give unfinished ones a whole score.

    A :class:`ProposerError` for one request, or a scoring error for one step, is recorded there and
    does not stop the others. Raises anything else that a proposer raises.
    """
    started = time.perf_counter()
    done = Round([Expanded() for _ in requests])
    everything = list(range(len(requests)))
    groups = [[index] for index in everything] if is_async(proposer) else [everything]
    tasks = {
        asyncio.create_task(_ask(proposer, [requests[i][1] for i in group])): group
        for group in groups
    }
    pending = set(tasks)
    try:
        while pending:
            ready, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            # Sorted, so that the tree does not depend on which answer came first.
            arrived = sorted(ready, key=lambda task: tasks[task])
            drafts: list[Draft] = []
            for task in arrived:
                found, at = task.result()
                done.proposing_seconds = max(done.proposing_seconds, at - started)
                for place, index in enumerate(tasks[task]):
                    done.expanded[index] = _collect(requests[index][0], found, place)
                    drafts += done.expanded[index].drafts
            before = time.perf_counter()
            await asyncio.to_thread(_score, scorer, drafts, score_unfinished)
            done.scoring_seconds += time.perf_counter() - before
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    return done


async def _ask(
    proposer: Proposer, requests: Sequence[Request]
) -> tuple[Proposals | ProposerError, float]:
    """The answer, and the time at which it arrived."""
    try:
        return await propose(proposer, requests), time.perf_counter()
    except ProposerError as error:
        return error, time.perf_counter()


def _collect(parent: Node, found: Proposals | ProposerError, place: int) -> Expanded:
    if isinstance(found, ProposerError):
        return Expanded(error=str(found))
    proposals = found[place]
    if not proposals:
        return Expanded(error="the proposer returned no proposals")
    drafts: dict[tuple[str, bool, tuple[str, ...]], Draft] = {}
    for proposal in proposals:
        text = proposal.text.strip()
        key = (text, proposal.finished, tuple(proposal.response))
        if key in drafts:
            drafts[key].num_proposed += 1
        else:
            error = "" if text or proposal.finished else _BLANK
            drafts[key] = Draft(parent, proposal, error=error)
    num_tokens = sum(proposal.num_tokens for proposal in proposals)
    return Expanded(list(drafts.values()), len(proposals), num_tokens)


def _score(scorer: Scorer, drafts: Sequence[Draft], score_unfinished: bool) -> None:
    """Fill in sessions and scores. All drafts share each pass over the weights."""
    drafts = [draft for draft in drafts if not draft.error]
    for draft in drafts:
        assert draft.parent.session is not None
        draft.session = draft.parent.session.fork()
    growing = [draft for draft in drafts if draft.proposal.text.strip()]
    extended = scorer.extend_sessions(
        [draft.scored_session for draft in growing],
        [[draft.proposal.text] for draft in growing],
        on_error="return",
    )
    for draft, added in zip(growing, extended, strict=True):
        if isinstance(added, RfprmError):
            draft.fail(added)
    alive = [draft for draft in drafts if not draft.error]
    for draft in alive:
        draft.step_scores = draft.scored_session.step_scores
    closing = [draft for draft in alive if draft.proposal.finished or score_unfinished]
    scores = scorer.score_sessions(
        [draft.scored_session for draft in closing],
        [draft.proposal.response for draft in closing],
        on_error="return",
    )
    for draft, score in zip(closing, scores, strict=True):
        if isinstance(score, RfprmError):
            draft.fail(score)
        else:
            draft.score = score
