"""Reranker: candidates for a question in, the same candidates out, best first.

score → aggregate → (vote) → sort. Knows no tokens and no models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from itertools import islice
from typing import Literal, TypeAlias, TypeVar, get_args

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.grouping import need_algebra
from rfprm_runtime.errors import InvalidArgumentError, InvalidTrajectoryError, RfprmError
from rfprm_runtime.ground.arguments import check_choice, check_has, check_whole, shown
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.ranking import (
    Method,
    RankedCandidate,
    Ranking,
    Vote,
    count_votes,
    order_by_votes,
    text_of,
)
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.aggregation import (
    Aggregation,
    Weigh,
    aggregate,
    check_aggregation,
    weighing,
)
from rfprm_runtime.traces.prompts import question_of_prompt
from rfprm_runtime.traces.questions import question_key
from rfprm_runtime.traces.tally import note_single_steps
from rfprm_runtime.types import Overflow, Trajectory, TrajectoryScore, windows_of

Kind = TypeVar("Kind")
Candidate: TypeAlias = str | Trajectory | InvalidTrajectoryError
"""A model's output, a trajectory, or why there is none."""


class Reranker:
    """Ranks candidates by a PRM. Safe to share between threads."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        aggregation: Aggregation | Callable[[TrajectoryScore], float] = "reward",
        extract_answer: Callable[[str], str | None] = final_answer,
        same_answer: Callable[[str, str], bool] | None = None,
        split: SplitRule = "blank_lines",
        overflow: Overflow = "error",
    ) -> None:
        r"""``extract_answer`` takes a candidate's text and returns its answer, by default the last
        ``\boxed{…}``, ``#### …`` or "the answer is …", or else the formula or the lone quantity
        of the last sentence.
        ``same_answer`` says whether two answers are the same; by default numbers, options and
        words are compared as such and formulas by math-verify, for at most five seconds (extra
        ``math``; only needed for votes in which some answer is a formula or a list).
        ``split`` and ``overflow`` are those of :meth:`Trajectory.from_text` and
        :meth:`Scorer.score_batch`.

        Raises ``ValueError`` for an invalid scorer, aggregation, split or overflow, and for an
        aggregation that needs scores which the scorer does not give."""
        check_has("scorer", scorer, "score_batch", "a Scorer: Scorer.load(FOLDER)")
        manifest = getattr(scorer, "manifest", None)
        has_prefixes = getattr(scorer, "score_prefixes", False)
        check_aggregation("aggregation", aggregation, manifest, score_prefixes=has_prefixes)
        check_choice("split", split, get_args(SplitRule))
        windows_of(overflow)  # checks it
        self._scorer = scorer
        self._aggregation = aggregation
        self._weigh: Weigh = weighing(manifest, aggregation)
        self._extract_answer = extract_answer
        self._same_answer = same_answer
        self._checker: AnswerChecker | None = None
        self._split: SplitRule = split
        self._overflow: Overflow = overflow

    def rank(
        self,
        question: str,
        candidates: Sequence[Candidate],
        *,
        top_k: int | None = None,
        method: Method = "best_of_n",
        on_error: Literal["raise", "rank_last"] = "raise",
    ) -> Ranking:
        """Rank ``candidates``, a model's outputs or trajectories, and keep ``top_k`` of them.

        Ties keep their input order. A candidate that cannot be scored raises an error, or with
        ``rank_last`` comes after all others and carries its ``error``; so does an error given in a
        candidate's place.

        Raises :class:`InvalidTrajectoryError` and :class:`TraceTooLongError` like
        :meth:`Scorer.score_batch`, ``ValueError`` if there are no candidates or ``top_k`` is below
        1, and :class:`MissingExtraError` if a vote needs math-verify and it is not installed.
        """
        return self.rank_many(
            [question], [candidates], top_k=top_k, method=method, on_error=on_error
        )[0]

    def rank_many(
        self,
        questions: Sequence[str],
        candidates: Sequence[Sequence[Candidate]],
        *,
        top_k: int | None = None,
        method: Method = "best_of_n",
        on_error: Literal["raise", "rank_last"] = "raise",
        show_progress_bar: bool = False,
    ) -> list[Ranking]:
        """:meth:`rank` for many questions at once: ``candidates[i]`` belong to ``questions[i]``.

        Prefixes that candidates share, above all their question, are computed once if the backend
        can (``native``). Raises like :meth:`rank`, and ``ValueError`` if the lengths differ.
        """
        _check_arguments(questions, candidates, top_k, method, on_error)
        parsed = [
            [self._trajectory(question, item) for item in group]
            for question, group in zip(questions, candidates, strict=True)
        ]
        if on_error == "raise":
            _raise_first(questions, parsed)
        for group in parsed:
            note_single_steps(group, self._split)
        answers = list(map(self._answers, questions, candidates, parsed))
        if method != "best_of_n" and any(map(need_algebra, answers)):
            self._prepare_votes()  # before hours of scoring
        scores = iter(
            self._scorer.score_batch(
                [item for group in parsed for item in group],
                overflow=self._overflow,
                on_error="return",
                show_progress_bar=show_progress_bar,
            )
        )
        found = [list(islice(scores, len(group))) for group in parsed]
        if on_error == "raise":
            _raise_first(questions, found)
        return [
            self._rank(*group, method, top_k)
            for group in zip(questions, parsed, found, answers, strict=True)
        ]

    def close(self) -> None:
        """Stop the process that compares answers, if there is one. The scorer stays open."""
        if self._checker is not None:
            self._checker.close()

    def __enter__(self) -> Reranker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepare_votes(self) -> None:
        if self._same_answer is None and self._checker is None:
            self._checker = AnswerChecker()

    def _trajectory(self, question: str, item: object) -> Trajectory | RfprmError:
        try:
            if isinstance(item, str):
                asked = question_of_prompt(question)
                return Trajectory.from_text(asked, item, split=self._split, prompt=question)
            if isinstance(item, RfprmError):
                return item
            if not isinstance(item, Trajectory):
                raise InvalidTrajectoryError(
                    f"is {type(item).__name__}, expected a str or Trajectory"
                )
            if question_key(item.question) != question_key(question):
                raise InvalidTrajectoryError(
                    f"answers the question {item.question[:60]!r}, expected {question[:60]!r}"
                )
            return item
        except InvalidTrajectoryError as error:
            return error

    def _answers(
        self,
        question: str,
        given: Sequence[Candidate],
        parsed: Sequence[Trajectory | RfprmError],
    ) -> list[str | None]:
        texts = [text_of(item, prompt=question) for item in given]
        return [
            self._extract_answer(text) if isinstance(found, Trajectory) else None
            for text, found in zip(texts, parsed, strict=True)
        ]

    def _rank(
        self,
        question: str,
        trajectories: Sequence[Trajectory | RfprmError],
        scores: Sequence[TrajectoryScore | RfprmError],
        stated: Sequence[str | None],
        method: Method,
        top_k: int | None,
    ) -> Ranking:
        values = [
            aggregate(score, self._aggregation) if isinstance(score, TrajectoryScore) else None
            for score in scores
        ]
        answers = [
            answer if value is not None else None
            for answer, value in zip(stated, values, strict=True)
        ]
        votes = () if method == "best_of_n" else self._count(answers, values, method)
        order = order_by_votes(values, votes, by_value=method != "majority_vote")
        ranked = tuple(
            RankedCandidate(
                index=index,
                rank=rank,
                value=values[index],
                answer=answers[index],
                trajectory=_kept(trajectories[index], Trajectory),
                score=_kept(scores[index], TrajectoryScore),
                error=_placed(scores[index], question, index),
            )
            for rank, index in enumerate(order[:top_k], start=1)
        )
        return Ranking(question, method, ranked, votes)

    def _count(
        self, answers: Sequence[str | None], values: Sequence[float | None], method: Method
    ) -> tuple[Vote, ...]:
        verify = self._checker.agree if self._checker is not None else None
        weights = [
            1.0 if method == "majority_vote" else 0.0 if value is None else self._weigh(value)
            for value in values
        ]
        return count_votes(answers, weights, same_answer=self._same_answer, verify=verify)


def _place(question: str, index: int) -> str:
    return f"candidate {index} (from 0) of {question[:60]!r}"


def _placed(found: object, question: str, index: int) -> RfprmError | None:
    """``found`` if it is an error, with the candidate named in its message; else None."""
    return found.at(_place(question, index)) if isinstance(found, RfprmError) else None


def _raise_first(questions: Sequence[str], groups: Sequence[Sequence[object]]) -> None:
    for question, group in zip(questions, groups, strict=True):
        for index, item in enumerate(group):
            error = _placed(item, question, index)
            if error is not None:
                raise error


def _kept(item: object, kind: type[Kind]) -> Kind | None:
    return item if isinstance(item, kind) else None


def _check_arguments(
    questions: Sequence[str],
    candidates: Sequence[Sequence[object]],
    top_k: int | None,
    method: str,
    on_error: str,
) -> None:
    if isinstance(questions, str) or any(isinstance(group, str) for group in candidates):
        raise InvalidArgumentError(
            "got one string where a list of questions or candidates was expected"
        )
    for index, question in enumerate(questions):
        if not isinstance(question, str):
            raise InvalidArgumentError(
                f"question {index} (from 0) is {shown(question)}, expected a string"
            )
    for index, group in enumerate(candidates):
        if not isinstance(group, Sized):
            raise InvalidArgumentError(
                f"the candidates for question {index} (from 0) are {shown(group)}, expected a list"
            )
    if len(questions) != len(candidates):
        raise InvalidArgumentError(
            f"got {len(questions)} questions and {len(candidates)} lists of candidates, expected "
            "one list for each question"
        )
    empty = next((i for i, group in enumerate(candidates) if not len(group)), None)
    if empty is not None:
        raise InvalidArgumentError(f"question {empty} (from 0) has no candidates to rank")
    if top_k is not None:
        check_whole("top_k", top_k, more=", or None for all")
    check_choice("method", method, get_args(Method))
    check_choice("on_error", on_error, ("raise", "rank_last"))
