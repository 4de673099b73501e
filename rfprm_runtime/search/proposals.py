"""What a policy is asked for (next steps after the steps so far) and what it answers.

Knows no scores.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from rfprm_runtime.errors import InvalidArgumentError, RfprmError

Steps = tuple[str, ...]


class ProposerError(RfprmError):
    """A proposer could not propose. Raise it to fail one branch and let the search continue."""


@dataclass(frozen=True)
class Request:
    """What a policy is to continue."""

    question: str
    steps: Steps
    """The steps so far; none at the beginning."""
    count: int
    """Number of proposals wanted, at most."""


@dataclass(frozen=True)
class Proposal:
    """One next step of a policy."""

    text: str
    """The step. Blank only if the policy had nothing more to say (``finished``); any other blank
    step becomes a failed node."""
    num_tokens: int
    """Tokens the policy spent on it, by its own tokenizer; they count against the budget."""
    finished: bool = False
    """Whether the trace ends here."""
    response: Steps = ()
    """The final response after the thinking, if the policy writes one."""


Proposals = Sequence[Sequence[Proposal]]
Proposer = Callable[[Sequence[Request]], "Proposals | Awaitable[Proposals]"]
"""``proposer(requests)`` returns a list of proposals for each request, in order. A plain function
gets all requests of a round at once and runs in a thread. A coroutine function is called once per
request, for all requests concurrently, with a list of that one request, and returns a list of one
list; answers that have arrived are scored while the others are awaited."""


def is_async(proposer: Proposer) -> bool:
    """Whether ``proposer``, a function or a callable object, must be awaited."""
    call = getattr(proposer, "__call__", None)  # noqa: B004 (what kind it is, not whether it is)
    return inspect.iscoroutinefunction(proposer) or inspect.iscoroutinefunction(call)


async def propose(proposer: Proposer, requests: Sequence[Request]) -> list[list[Proposal]]:
    """Call the proposer once, awaited or in a thread, and check its answer.

    Raises ``ValueError`` for an answer of the wrong shape, and whatever the proposer raises.
    """
    if is_async(proposer):
        answer: Any = await proposer(requests)  # type: ignore[misc]
    else:
        answer = await asyncio.to_thread(proposer, requests)
    if inspect.iscoroutine(answer):
        answer.close()
        raise InvalidArgumentError(
            "the proposer is a plain function but returned a coroutine; make it a coroutine "
            "function (async def), so that it is awaited"
        )
    _check_lists(answer, len(requests))
    for proposals, request in zip(answer, requests, strict=True):
        _check_proposals(proposals, request.count)
    return [list(proposals) for proposals in answer]


def _check_lists(answer: Any, count: int) -> None:
    is_list = _is_list(answer)
    is_flat = is_list and any(isinstance(item, Proposal) for item in answer)
    if is_list and len(answer) == count and not is_flat:
        return
    came = f"{len(answer)} {'proposals' if is_flat else 'lists'}" if is_list else _kind(answer)
    raise InvalidArgumentError(
        f"the proposer returned {came} for {count} requests, expected a list of proposals for "
        "each: [[Proposal(…), …], …], even for one request (an async proposer gets one per call)"
    )


def _check_proposals(proposals: Any, count: int) -> None:
    if not _is_list(proposals) or len(proposals) > count:
        came = f"{len(proposals)} proposals" if _is_list(proposals) else _kind(proposals)
        raise InvalidArgumentError(
            f"the proposer returned {came}, expected a list of at most {count} proposals"
        )
    for proposal in proposals:
        if not isinstance(proposal, Proposal):
            raise InvalidArgumentError(
                f"the proposer returned a list with a {_kind(proposal)}, expected a Proposal"
            )
        if not isinstance(proposal.text, str):
            raise InvalidArgumentError(
                f"a proposal's text is {_kind(proposal.text)}, expected a string"
            )
        if not _is_list(proposal.response):
            raise InvalidArgumentError(
                f"a proposal's response is {_kind(proposal.response)}, expected a list of strings; "
                "split it with split_steps(text)"
            )
        if not isinstance(proposal.num_tokens, Integral) or proposal.num_tokens < 0:
            raise InvalidArgumentError(
                f"a proposal's num_tokens is {proposal.num_tokens}, expected a whole number, at "
                "least 0"
            )


def _is_list(value: Any) -> bool:
    """Whether ``value`` is a sequence, and not a string, which is one too."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _kind(value: Any) -> str:
    return type(value).__name__
