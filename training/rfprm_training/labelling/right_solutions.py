"""Right traces to a question, from the data that is labelled, by which wrong ones are judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rfprm_runtime.types import Trajectory
from rfprm_training.rewarded import question_key


class RightSolutions:
    """The first few different right traces to each question of a stream, kept in memory."""

    def __init__(self, trajectories: Iterable[Trajectory], most: int) -> None:
        """``most``: how many to keep of each question."""
        self._of_question: dict[str, list[tuple[str, ...]]] = {}
        for trajectory in trajectories:
            if trajectory.outcome is None or trajectory.outcome <= 0.5:
                continue
            kept = self._of_question.setdefault(question_key(trajectory.question), [])
            if len(kept) < most and trajectory.steps not in kept:
                kept.append(trajectory.steps)

    def to(self, question: str) -> Sequence[tuple[str, ...]]:
        """The steps of each; none if the data has no right trace to the question."""
        return self._of_question.get(question_key(question), ())
