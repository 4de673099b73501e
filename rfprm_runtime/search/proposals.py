"""What a policy is asked for, next steps after the steps so far, and what it answers.

Knows no scores.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_runtime.errors import RfprmError

Steps = tuple[str, ...]


class ProposerError(RfprmError):
    """A proposer could not propose; what it raises where a search is to go on without it."""


@dataclass(frozen=True)
class Request:
    """Where a policy is to go on from."""

    question: str
    steps: Steps
    """The steps so far; none at the beginning."""
    count: int
    """Proposals wanted, at most."""


@dataclass(frozen=True)
class Proposal:
    """One next step of a policy."""

    text: str
    """The step; blank only where the policy had nothing more to say (``finished``)."""
    num_tokens: int
    """What it cost the policy, in its own tokens; counts against the budget."""
    finished: bool = False
    """Whether the trace ends here."""
    response: Steps = ()
    """The final response after the thinking, where the policy writes one."""


Proposals = Sequence[Sequence[Proposal]]
Proposer = Callable[[Sequence[Request]], "Proposals | Awaitable[Proposals]"]
"""``proposer(requests)``: a list of proposals for each request, in order. A plain function gets all
requests of a round at once and runs in a thread; a coroutine function is called for each request,
all of them at the same time, and is awaited while what has come already is scored."""


def is_async(proposer: Proposer) -> bool:
    """Whether ``proposer``, a function or an object that can be called, has to be awaited."""
    call = getattr(proposer, "__call__", None)  # noqa: B004 (its kind is asked for, not whether)
    return inspect.iscoroutinefunction(proposer) or inspect.iscoroutinefunction(call)


async def propose(proposer: Proposer, requests: Sequence[Request]) -> list[list[Proposal]]:
    """Ask once, wherever the proposer runs, and check what it says.

    Raises ``ValueError`` for an answer of the wrong shape, and what the proposer raises.
    """
    if is_async(proposer):
        answer: Any = await proposer(requests)  # type: ignore[misc]
    else:
        answer = await asyncio.to_thread(proposer, requests)
    if not isinstance(answer, Sequence) or len(answer) != len(requests):
        came = f"{len(answer)} lists" if isinstance(answer, Sequence) else type(answer).__name__
        raise ValueError(
            f"the proposer returned {came} for {len(requests)} requests, expected a list of "
            "proposals for each"
        )
    for proposals, request in zip(answer, requests, strict=True):
        _check(proposals, request.count)
    return [list(proposals) for proposals in answer]


def _check(proposals: Any, count: int) -> None:
    if not isinstance(proposals, Sequence) or len(proposals) > count:
        came = len(proposals) if isinstance(proposals, Sequence) else type(proposals).__name__
        raise ValueError(f"the proposer returned {came} where {count} proposals were asked for")
    for proposal in proposals:
        if not isinstance(proposal, Proposal):
            raise ValueError(
                f"the proposer returned a {type(proposal).__name__}, expected a Proposal"
            )
        if not proposal.text.strip() and not proposal.finished:
            raise ValueError("the proposer returned a blank step that ends nothing")
        if proposal.num_tokens < 0:
            raise ValueError(f"a proposal cost {proposal.num_tokens} tokens, expected 0 or more")
