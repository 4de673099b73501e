"""Policies whose next steps are all known."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from rfprm_runtime.search import Proposal, Request

DEPTH = 3


def step_after(steps: tuple[str, ...], number: int) -> Proposal:
    """The ``number``-th next step: the same every time, ending at :data:`DEPTH`."""
    text = f"step {len(steps)}, {zlib.crc32(repr((steps, number)).encode()) % 1000}"
    is_last = len(steps) + 1 == DEPTH
    return Proposal(text, num_tokens=5, finished=is_last, response=("done",) if is_last else ())


class KnownPolicy:
    """Proposes the first ``count`` known steps at each place, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[list[Request]] = []

    def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        self.calls.append(list(requests))
        return [
            [step_after(request.steps, number) for number in range(request.count)]
            for request in requests
        ]


def saying(*proposals: Proposal) -> object:
    """A policy with the same proposals everywhere."""
    return lambda requests: [list(proposals[: request.count]) for request in requests]
