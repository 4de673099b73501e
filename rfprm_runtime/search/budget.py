"""What a search may spend, and what it has spent. Knows no steps and no scores."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_finite, check_whole


@dataclass(frozen=True)
class Budget:
    """Limits of the search for one question; None is no limit.

    ``max_tokens`` and ``max_seconds`` are looked at before each round, so that one round is spent
    beyond them at most; ``max_steps`` and ``max_depth`` are never exceeded.

    Raises ``ValueError`` for what is no number above 0.
    """

    max_tokens: int | None = None
    """Tokens that the policy writes, of steps that are kept or not."""
    max_steps: int | None = None
    """Steps that are proposed, kept or not."""
    max_seconds: float | None = None
    max_depth: int = 40
    """Steps of one trace. A trace that has so many without an end is given up."""

    def __post_init__(self) -> None:
        check_whole("max_depth", self.max_depth)
        for name in ("max_tokens", "max_steps"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), more=", or None for no limit")
        if self.max_seconds is not None:
            check_finite("max_seconds", self.max_seconds, more=", or None for no limit")
            if self.max_seconds <= 0:
                raise InvalidArgumentError(
                    f"max_seconds is {self.max_seconds}, expected more than 0, or None for no limit"
                )


@dataclass
class Spent:
    """What a search has cost so far."""

    num_tokens: int = 0
    num_steps: int = 0
    num_rounds: int = 0
    seconds: float = 0.0
    proposing_seconds: float = 0.0
    """Time in which a proposal was waited for. Of searches in common, for all of them."""
    scoring_seconds: float = 0.0
    """Time in which steps were scored, likewise; with async proposers both overlap."""
    _started: float = field(default_factory=time.monotonic, repr=False)

    def exhausted(self, budget: Budget) -> str | None:
        """The name of the limit that is reached, if one is."""
        self.seconds = time.monotonic() - self._started
        spent = {
            "max_tokens": self.num_tokens,
            "max_steps": self.num_steps,
            "max_seconds": self.seconds,
        }
        for name, value in spent.items():
            limit = getattr(budget, name)
            if limit is not None and value >= limit:
                return name
        return None
