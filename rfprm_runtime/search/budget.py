"""What a search may spend, and what it has spent. Knows no steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Budget:
    """Limits of one search; None is no limit. Looked at before each round, so that at most one
    round is spent beyond ``max_tokens`` and ``max_seconds``; ``max_steps`` is never exceeded."""

    max_tokens: int | None = None
    """Tokens that the policy generates."""
    max_steps: int | None = None
    """Steps proposed, kept or not."""
    max_seconds: float | None = None
    max_depth: int = 40
    """Steps of one trace."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_steps", "max_seconds", "max_depth"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, expected more than 0, or None for no limit")


@dataclass
class Spent:
    """What a search has cost so far."""

    num_tokens: int = 0
    num_steps: int = 0
    seconds: float = 0.0
    proposing_seconds: float = 0.0
    """Time in which at least one proposal was waited for."""
    scoring_seconds: float = 0.0
    """Time in which steps were scored; it may overlap with proposing."""
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

    def affordable(self, budget: Budget, num_nodes: int, count: int) -> tuple[int, int]:
        """How many of ``num_nodes`` may be expanded, and with how many steps each."""
        if budget.max_steps is None:
            return num_nodes, count
        left = budget.max_steps - self.num_steps
        nodes = max(1, min(num_nodes, left))
        return nodes, max(1, min(count, left // nodes))
