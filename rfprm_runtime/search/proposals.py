"""What a policy proposes: next steps after the steps so far. Knows no scores."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rfprm_runtime.errors import RfprmError

Steps = tuple[str, ...]


class ProposerError(RfprmError):
    """A proposer returned what is no list of proposals."""


@dataclass(frozen=True)
class Proposal:
    """One next step of a policy."""

    text: str
    """The step; blank only where the policy had nothing more to say (``finished``)."""
    num_tokens: int
    """What it cost the policy, in its own tokens; counts against the budget."""
    finished: bool = False
    """Whether the trace ends here."""
    response: Steps = field(default=())
    """The final response after the thinking, where the policy writes one."""


Proposer = Callable[
    [str, Sequence[Steps], int],
    "list[list[Proposal]] | Awaitable[list[list[Proposal]]]",
]
"""``proposer(question, prefixes, count)``: up to ``count`` proposals for each prefix (the steps so
far), in the order of the prefixes. A plain function gets all prefixes at once and runs in a thread;
a coroutine function is called for each prefix, all of them at the same time."""


def is_async(proposer: Proposer) -> bool:
    call = getattr(proposer, "__call__", None)  # noqa: B004 (an object may be called)
    return inspect.iscoroutinefunction(proposer) or inspect.iscoroutinefunction(call)


async def propose(
    proposer: Proposer, question: str, prefixes: Sequence[Steps], count: int
) -> list[list[Proposal]]:
    """Ask once, wherever the proposer runs, and check what it says.

    Raises :class:`ProposerError` for an answer of the wrong shape, and what the proposer raises.
    """
    if is_async(proposer):
        answer: Any = await proposer(question, prefixes, count)  # type: ignore[misc]
    else:
        answer = await asyncio.to_thread(proposer, question, prefixes, count)
    return _checked(answer, len(prefixes))


def _checked(answer: Any, num_prefixes: int) -> list[list[Proposal]]:
    if not isinstance(answer, Sequence) or len(answer) != num_prefixes:
        came = f"{len(answer)} lists" if isinstance(answer, Sequence) else type(answer).__name__
        raise ProposerError(
            f"the proposer returned {came} for {num_prefixes} prefixes, expected a list of "
            "proposals for each"
        )
    for proposals in answer:
        for proposal in proposals:
            if not isinstance(proposal, Proposal):
                raise ProposerError(
                    f"the proposer returned a {type(proposal).__name__}, expected a Proposal"
                )
            if not proposal.text.strip() and not proposal.finished:
                raise ProposerError("the proposer returned a blank step that ends nothing")
    return [list(proposals) for proposals in answer]
