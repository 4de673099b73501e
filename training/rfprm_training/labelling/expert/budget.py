"""Counts what was spent, and decides whether the next request may be sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from rfprm_training import TrainingError
from rfprm_training.labelling.expert.cache import Answer
from rfprm_training.labelling.expert.config import ExpertConfig

_CHARACTERS_PER_TOKEN = 3
"""Fewer than in ordinary text, so that estimates are too high rather than too low."""


class BudgetSpentError(TrainingError):
    """The next request may exceed the budget. Finished work is kept, and a later run with a larger
    budget continues it."""


@dataclass
class Usage:
    """Counts of one run; costs are in the currency of the prices."""

    requests: int = 0
    """Requests sent to the server, failed attempts included."""
    answers: int = 0
    cached: int = 0
    """Requests answered from the cache, at no cost."""
    repairs: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompts that the server had kept from an earlier request, if it says so."""
    answer_tokens: int = 0
    cost: float = 0.0

    def __str__(self) -> str:
        kept = f" ({self.cached_tokens:,} of them kept by the server)" if self.cached_tokens else ""
        return (
            f"{self.answers:,} answers ({self.cached:,} more from the cache), "
            f"{self.prompt_tokens:,}{kept} + {self.answer_tokens:,} tokens, cost {self.cost:.4f}, "
            f"{self.retries} retries, {self.repairs} repairs"
        )


@dataclass
class Budget:
    """Counts what is spent, and reserves for every request in flight the most it can cost."""

    config: ExpertConfig
    usage: Usage = field(default_factory=Usage)
    _reserved_tokens: int = 0
    _reserved_cost: float = 0.0

    def reserve(self, messages: list[dict[str, str]], answer_tokens: int) -> tuple[int, float]:
        """Reserve tokens and cost for a request whose answer has at most ``answer_tokens``. Raises
        :class:`BudgetSpentError` if it may exceed what is left."""
        characters = sum(len(message["content"]) for message in messages)
        prompt_tokens = characters // _CHARACTERS_PER_TOKEN + 16
        tokens = prompt_tokens + answer_tokens
        cost = self._cost(prompt_tokens, answer_tokens)
        spent = self.usage.prompt_tokens + self.usage.answer_tokens
        limit = self.config.max_tokens
        if limit is not None and spent + self._reserved_tokens + tokens > limit:
            raise BudgetSpentError(
                f"{spent:,} of {limit:,} tokens are spent, and the next request may take "
                f"{tokens:,}; raise expert.max_tokens and run the same command again"
            )
        most = self.config.max_cost
        if most is not None and self.usage.cost + self._reserved_cost + cost > most:
            raise BudgetSpentError(
                f"{self.usage.cost:.4f} of {most:.4f} is spent, and the next request may cost "
                f"{cost:.4f}; raise expert.max_cost and run the same command again"
            )
        self._reserved_tokens += tokens
        self._reserved_cost += cost
        return tokens, cost

    def settle(self, reserved: tuple[int, float], answer: Answer | None) -> None:
        """Replace a reservation by what the answer cost, or by nothing if there was no answer."""
        self._reserved_tokens -= reserved[0]
        self._reserved_cost -= reserved[1]
        if answer is not None:
            self.usage.answers += 1
            self.usage.prompt_tokens += answer.prompt_tokens
            self.usage.cached_tokens += answer.cached_tokens
            self.usage.answer_tokens += answer.answer_tokens
            self.usage.cost += self._cost(
                answer.prompt_tokens, answer.answer_tokens, answer.cached_tokens
            )

    def _cost(self, prompt_tokens: int, answer_tokens: int, cached_tokens: int = 0) -> float:
        config = self.config
        price = config.price_per_million_prompt_tokens
        cached_price = config.price_per_million_cached_tokens
        return (
            (prompt_tokens - cached_tokens) * price
            + cached_tokens * (price if cached_price is None else cached_price)
            + answer_tokens * config.price_per_million_answer_tokens
        ) / 1e6
