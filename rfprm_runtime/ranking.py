"""What a reranker answers, and how answers are voted on: pure, without models or scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from rfprm_runtime.answers.grouping import group_answers
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground.thinking import parse_trace
from rfprm_runtime.traces.right import answer_text
from rfprm_runtime.types import Float32Array, Trajectory, TrajectoryScore

Method = Literal["best_of_n", "weighted_vote", "majority_vote"]
"""``best_of_n``: the highest score first. ``weighted_vote``: candidates with the same answer add up
their scores, and the largest sum comes first (weighted Best-of-N, arXiv 2206.02336); scores that
can be negative are brought to [0, 1] before (:func:`~rfprm_runtime.scores.aggregation.weighing`).
``majority_vote``: every candidate counts once (self-consistency, arXiv 2203.11171)."""


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate and how it did."""

    index: int
    """Its place among the given candidates, from 0."""
    rank: int
    """From 1, which is the best."""
    value: float | None
    """What it was ranked by (after a vote, within its answer); None if it has no score."""
    answer: str | None
    trajectory: Trajectory | None
    score: TrajectoryScore | None
    error: RfprmError | None = None
    """Why it has no score; such candidates rank last."""

    @property
    def step_scores(self) -> Float32Array | None:
        """float32 [T]."""
        return None if self.score is None else self.score.step_scores


@dataclass(frozen=True)
class Vote:
    """An answer and the candidates that gave it."""

    answer: str
    """As its first candidate spells it."""
    weight: float
    members: tuple[int, ...]
    """Indices of the candidates that gave it."""


@dataclass(frozen=True)
class Ranking(Sequence[RankedCandidate]):
    """The candidates for one question, best first."""

    question: str
    method: Method
    candidates: tuple[RankedCandidate, ...]
    votes: tuple[Vote, ...]
    """Most votes first; empty without a vote."""

    @property
    def best(self) -> RankedCandidate:
        return self.candidates[0]

    @property
    def answer(self) -> str | None:
        """The winner: the answer with the most votes, or that of the best candidate."""
        return self.votes[0].answer if self.votes else self.best.answer

    def top_k(self, k: int) -> list[RankedCandidate]:
        return list(self.candidates[:k])

    @overload
    def __getitem__(self, index: int) -> RankedCandidate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RankedCandidate]: ...
    def __getitem__(self, index: int | slice) -> RankedCandidate | Sequence[RankedCandidate]:
        return self.candidates[index]

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[RankedCandidate]:
        return iter(self.candidates)


def count_votes(
    answers: Sequence[str | None],
    weights: Sequence[float],
    *,
    same_answer: Callable[[str, str], bool | None] | None = None,
    verify: Callable[[str, str], bool | None] | None = None,
) -> tuple[Vote, ...]:
    """Answers with the summed weights of their candidates, heaviest first; ties go to the answer
    given first. None casts no vote. ``same_answer`` decides which answers are the same; without it
    numbers, options and words are compared, and ``verify`` decides what that leaves open. Which
    answers are grouped does not depend on their order. Pure except for the functions."""
    votes = [
        Vote(str(answers[group[0]]), sum(weights[i] for i in group), tuple(group))
        for group in group_answers(answers, verify=verify, same=same_answer)
    ]
    return tuple(sorted(votes, key=lambda vote: -vote.weight))


def text_of(candidate: object, *, prompt: str = "") -> str:
    """The text to search for an answer: the response, never a thought that was cut off; of a
    trajectory without a response the steps. ``prompt``: what a text continues."""
    if isinstance(candidate, str):
        return parse_trace(candidate, prompt=prompt).response
    if not isinstance(candidate, Trajectory):
        return ""  # it is an error, too
    return answer_text(candidate)


def order_by_votes(
    values: Sequence[float | None], votes: Sequence[Vote], *, by_value: bool
) -> list[int]:
    """Indices by answer (most votes first), then by value, then in input order; unscored last."""
    place = {index: p for p, vote in enumerate(votes) for index in vote.members}

    def key(index: int) -> tuple[bool, int, float]:
        value = values[index]
        worth = value if by_value and value is not None else 0.0
        return value is None, place.get(index, len(votes)), -worth

    return sorted(range(len(values)), key=key)
