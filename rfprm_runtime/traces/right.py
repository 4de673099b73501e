"""Whether a trace ends with the right answer, where its row knows that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.traces.known import outcome_of, references_of
from rfprm_runtime.traces.layouts import unwrapped
from rfprm_runtime.traces.record import Record
from rfprm_runtime.types import Trajectory

Agree = Callable[[str, str], bool | None]
RIGHT_FROM = 0.5
"""The outcome from which a trace counts as right."""


@contextmanager
def comparing() -> Iterator[Agree]:
    """What compares answers here: computer algebra, or without the extra ``math`` only numbers and
    spellings, which leaves some answers undecided."""
    try:
        checker = AnswerChecker()
    except MissingExtraError:
        yield answers_agree
        return
    with checker:
        yield checker.agree


def is_right(record: Record, trajectory: Trajectory, agree: Agree) -> bool | None:
    """Whether the trace is right: by the outcome in its row, or else by the reference answers
    there, of which each is right.

    None if the row knows neither, or the answers cannot be compared. A trace that states no answer
    is wrong.
    """
    fields = unwrapped(record.own)
    outcome = outcome_of(fields)
    if outcome is not None:
        return outcome >= RIGHT_FROM
    references = references_of(fields, record.reading.names.given("answer", fields))
    if not references:
        return None
    return states_right_answer(answer_text(trajectory), references, agree)


def states_right_answer(text: str, references: Sequence[str], agree: Agree) -> bool | None:
    """Whether the final answer of ``text`` means the same as one of ``references``; None if it
    cannot be compared with one and agrees with no other. A text that states no answer is wrong."""
    stated = final_answer(text)
    if stated is None:
        return False
    verdicts = [agree(stated, reference) for reference in references]
    return True if True in verdicts else None if None in verdicts else False


def answer_text(trajectory: Trajectory) -> str:
    """The text that states the answer: the response, or without one the steps."""
    return "\n\n".join(trajectory.response or trajectory.steps)


@dataclass
class Shares:
    """How often candidates are right, over questions whose answers are known."""

    num_questions: int = 0
    at_random: float = 0.0
    """Sum over questions of the share of right candidates: what picking one at random gives."""
    first: int = 0
    """Questions whose first candidate is right."""
    any: int = 0
    """Questions with a right candidate: what the best choice would give."""

    def add(self, verdicts: Sequence[bool | None]) -> None:
        """Count a question. ``verdicts``: of its candidates, best first; None where unknown. A
        question whose first verdict is unknown is not counted."""
        known = [verdict for verdict in verdicts if verdict is not None]
        if not known or verdicts[0] is None:
            return
        self.num_questions += 1
        self.at_random += sum(known) / len(known)
        self.first += known[0]
        self.any += any(known)

    def sentences(self) -> list[str]:
        """What a user should know; nothing if no answer is known."""
        if not self.num_questions:
            return []
        at_random, first, best = (
            f"{100 * count / self.num_questions:.1f} %"
            for count in (self.at_random, self.first, self.any)
        )
        return [
            f"of {self.num_questions:,} questions with a known answer, {first} have a right first "
            f"candidate (a random pick: {at_random}; the best possible pick: {best})"
        ]
