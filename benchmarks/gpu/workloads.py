"""Rows to score: independent ones, candidates of one question, and a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.models import attention_operations, linear_operations
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.engine.rows import TokenRow

TOKENS_PER_STEP = 32
QUESTION_TOKENS = 256


def independent(
    count: int, length: int, vocab: int, *, mixed: bool = False, seed: int = 0
) -> list[TokenRow]:
    """Rows of ``length`` tokens, or of a quarter of it to the whole, with a marker every 32."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(length // 4, length + 1, count) if mixed else np.full(count, length)
    return [_marked(rng.integers(0, vocab, int(size))) for size in sizes]


def best_of(questions: int, candidates: int, length: int, vocab: int) -> list[TokenRow]:
    """``candidates`` answers of a quarter of ``length`` to the whole to each question."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(questions):
        question = rng.integers(0, vocab, QUESTION_TOKENS)
        for _ in range(candidates):
            answer = rng.integers(0, vocab, int(rng.integers(length // 4, length + 1)))
            rows.append(_marked(np.concatenate([question, answer])))
    return rows


def _marked(ids: NDArray[np.int64]) -> TokenRow:
    places = np.arange(TOKENS_PER_STEP, len(ids), TOKENS_PER_STEP) - 1
    return TokenRow(ids, np.append(places, len(ids) - 1))


class Search:
    """A beam search: every round each of ``beams`` prefixes gets ``expansions`` new steps, and
    seeded chance picks the next beams. The same for every engine."""

    def __init__(self, beams: int, expansions: int, rounds: int, step: int, vocab: int) -> None:
        rng = np.random.default_rng(2)
        self.question = rng.integers(0, vocab, QUESTION_TOKENS)
        self.rounds: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        """Of each round: the parent of each branch (into those of the round before; in the first
        round all are of the question), and the new tokens [branches, step]."""
        chosen = np.zeros(beams, np.int64)
        for _ in range(rounds):
            parents = np.repeat(chosen, expansions)
            self.rounds.append((parents, rng.integers(0, vocab, (len(parents), step))))
            chosen = rng.choice(len(parents), beams, replace=False)

    def whole_rows(self) -> list[list[TokenRow]]:
        """Of each round the branches from the beginning, marked at their last token."""
        before = [self.question]
        found = []
        for parents, steps in self.rounds:
            before = [
                np.concatenate([before[parent], step])
                for parent, step in zip(parents, steps, strict=True)
            ]
            found.append([TokenRow(ids, np.array([len(ids) - 1])) for ids in before])
        return found


def operations(shape: Backbone, rows: Sequence[TokenRow]) -> float:
    """What scoring ``rows`` takes, each from its beginning, with causal attention."""
    tokens = sum(row.num_tokens for row in rows)
    pairs = sum(row.num_tokens * (row.num_tokens + 1) / 2 for row in rows)
    return linear_operations(shape) * tokens + attention_operations(shape) * pairs
