"""What a search may spend and has spent. Knows no steps and no scores."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import check_finite, check_whole


@dataclass(frozen=True)
class Budget:
    """Limits of the search for one question; None means no limit.

    ``max_tokens`` and ``max_seconds`` are checked before each round, so a search exceeds them by at
    most one round; it never exceeds ``max_steps`` and ``max_depth``.

    Raises ``ValueError`` for anything but a number above 0.
    """

    max_tokens: int | None = None
    """Tokens the policy writes, whether their steps are kept or not."""
    max_steps: int | None = None
    """Steps the policy proposes, kept or not."""
    max_seconds: float | None = None
    max_depth: int = 40
    """Steps of one trace. A trace that reaches this depth without ending is given up."""

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
    """Time spent waiting for proposals; for questions searched together, the time for all."""
    scoring_seconds: float = 0.0
    """Time spent scoring steps, likewise; with async proposers the two overlap."""
    _started: float = field(default_factory=time.monotonic, repr=False)

    def exhausted(self, budget: Budget) -> str | None:
        """The name of a limit that has been reached, or None."""
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
