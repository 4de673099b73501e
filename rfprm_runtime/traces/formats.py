"""What the fields of a row mean: the common formats of reasoning traces, read into trajectories.

Knows the field names that data sets use; knows no files. Everything that decides how a row is
understood is here, in the tables of field names and in :class:`Reading`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from rfprm_runtime.answers.compare import final_answer
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import check_choice
from rfprm_runtime.ground.parsing import SplitRule, split_steps, split_trace
from rfprm_runtime.traces.chats import (
    CHAT_FIELDS,
    Exchange,
    chat_of,
    last_exchange,
    last_question,
    turns_of,
)
from rfprm_runtime.types import Trajectory

QUESTION_FIELDS = ("question", "problem", "prompt")
TEXT_FIELDS = ("completion", "response", "text", "solution")
THINKING_FIELDS = (
    "thinking",
    "reasoning",
    "reasoning_content",
    "thinking_trajectory",
    "thinking_trajectories",
    "deepseek_reasoning",
    "thought",
)
"""Fields for the thinking alone; the response is then in one of the next."""
RESPONSE_FIELDS = (
    "final_response",
    "response",
    "attempt",
    "deepseek_solution",
    "output",
    "completion",
    "solution",
)
_TRACE_FIELDS = {"steps", *CHAT_FIELDS, *THINKING_FIELDS, *RESPONSE_FIELDS} - {"solution"}
"""Fields that hold a trace; a ``solution`` beside several generations is the reference."""
_MORE_QUESTION_FIELDS = ("instruction", "input")
ANSWER_FIELDS = (
    "expected_answer",
    "final_answer",
    "gold_answer",
    "ground_truth",
    "target",
    "answer",
    "solution",
)
OUTCOME_FIELDS = ("outcome", "is_correct", "correct", "correctness", "correctness_math_verify")


@dataclass(frozen=True)
class Reading:
    """How rows are read."""

    split: SplitRule = "blank_lines"
    """What separates the steps of a text."""
    with_outcome: bool = True
    """Whether to read the outcome, the reference answer, the source and the metadata too. Scoring
    needs none of them, and without them an invalid outcome does not cost a score."""

    def __post_init__(self) -> None:
        check_choice("split", self.split, get_args(SplitRule))


@dataclass(frozen=True)
class Parts:
    """The parts of a row's trace, before validation."""

    question: Any
    steps: Any
    response: Any = ()
    read_from: Mapping[str, str] = field(default_factory=dict)
    """Which field each part was read from; a chat is in one field as a whole."""

    def build(self, **known: Any) -> Trajectory:
        """The validated trajectory, with the fields in ``known`` added.

        Raises :class:`InvalidTrajectoryError`.
        """
        return Trajectory.build(
            question=self.question, steps=self.steps, response=self.response, **known
        )


def trajectory_from_record(
    row: Mapping[str, Any], *, split: SplitRule = "blank_lines"
) -> Trajectory:
    """The one trajectory of a row.

    Formats: ``steps`` (+ ``response``); a text with or without thinking tags; separate fields for
    thinking and response; chat ``messages`` (role, content) or ``conversations`` (from, value),
    with thinking in a field or a part beside an assistant's text. ``outcome`` and the reference
    answer (as ``metadata["answer"]``) are read if a field has them; ``metadata`` and ``source`` are
    kept.

    Raises :class:`InvalidTrajectoryError`, also for a row of several ``generations``.
    """
    return read_trajectory(dict(row), Reading(split))


def read_trajectory(
    fields: dict[str, Any],
    reading: Reading,
    *,
    source: str | None = None,
    generation: int | None = None,
) -> Trajectory:
    """The same, from the row's ``fields``. ``source``: the name of the data if the row gives none;
    ``generation``: which one the fields were taken from."""
    if reading.with_outcome and is_canonical(fields):
        named = fields["source"]
        return Trajectory.build(**{**fields, "source": source if named is None else named})
    parts = read_parts(fields, reading.split)
    known = _known_fields(fields, source, generation) if reading.with_outcome else {}
    return parts.build(**known)


_CANONICAL_FIELDS = set(Trajectory.model_fields)


def is_canonical(fields: dict[str, Any]) -> bool:
    """Whether a row is a trajectory as ``rfprm curate`` writes it, with nothing left to guess."""
    return (
        fields.keys() == _CANONICAL_FIELDS
        and isinstance(fields["steps"], list)
        and isinstance(fields["response"], list)
        and isinstance(fields["source"], (str, type(None)))
        and isinstance(fields["metadata"], dict)
        and isinstance(fields["outcome"], (bool, int, float, type(None)))
    )


def read_parts(fields: dict[str, Any], split: SplitRule) -> Parts:
    """Question, steps and response, and the fields they were read from.

    Raises :class:`InvalidTrajectoryError`.
    """
    if isinstance(fields.get("generations"), list):
        raise InvalidTrajectoryError(
            "has several generations; rfprm select scores each of them, or put each on its own line"
        )
    if "steps" in fields:
        return _from_steps(fields, split)
    if chat_of(fields) is not None:
        return _from_chat(fields, split)
    thinking = next((name for name in THINKING_FIELDS if fields.get(name)), None)
    return _from_text(fields, split) if thinking is None else _from_halves(fields, thinking, split)


def _from_steps(fields: dict[str, Any], split: SplitRule) -> Parts:
    """Steps as a list; the response as a list, or as a text to split."""
    response = fields.get("response")
    if isinstance(response, str):
        response = split_steps(response, split)
    question, read_from = _question(fields)
    read_from |= {"steps": "steps", "response": "response"}
    return Parts(question, fields["steps"], () if response is None else response, read_from)


def _from_text(fields: dict[str, Any], split: SplitRule) -> Parts:
    """A text with or without thinking tags; as a last resort ``answer``, which GSM8K uses."""
    name = text_field_of(fields)
    if name is None:
        names = " or ".join(map(repr, ("steps", *TEXT_FIELDS)))
        raise InvalidTrajectoryError(
            f"no steps and no text of a trace: expected a field {names}, got {sorted(fields)}"
        )
    question, read_from = _question(fields)
    return Parts(question, *split_trace(fields[name], split), read_from | {"text": name})


def text_of(fields: dict[str, Any]) -> str | None:
    """The model's output, if a row without steps and thinking fields has it as one text."""
    name = text_field_of(fields)
    return None if name is None else fields[name]


def text_field_of(fields: dict[str, Any]) -> str | None:
    """The field that :func:`text_of` reads."""
    return _text_field(fields, (*TEXT_FIELDS, *RESPONSE_FIELDS, "answer"))


def _text_field(fields: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if isinstance(fields.get(name), str)), None)


def _from_halves(fields: dict[str, Any], thinking: str, split: SplitRule) -> Parts:
    question, read_from = _question(fields)
    name = _text_field(fields, RESPONSE_FIELDS)
    read_from |= {"thinking": thinking} | ({} if name is None else {"response": name})
    steps = _steps_of_thinking(fields[thinking], split)
    return Parts(question, steps, split_steps(fields.get(name or "", ""), split), read_from)


def _steps_of_thinking(thinking: Any, split: SplitRule) -> list[str]:
    parts = thinking if isinstance(thinking, list) else [thinking]
    if not all(isinstance(part, str) for part in parts):
        raise InvalidTrajectoryError("the thinking is neither a string nor a list of strings")
    return [step for part in parts for step in split_steps(part, split)]


def _from_chat(fields: dict[str, Any], split: SplitRule) -> Parts:
    question, thinking, text = exchange_of(fields)
    read_from = {"chat": next(n for n in CHAT_FIELDS if isinstance(fields.get(n), list))}
    if not thinking:
        return Parts(question, *split_trace(text, split), read_from)
    return Parts(question, split_steps(thinking, split), split_steps(text, split), read_from)


def exchange_of(fields: dict[str, Any]) -> Exchange:
    """The question and the answer in a row's chat. Raises :class:`InvalidTrajectoryError`."""
    exchange = last_exchange(turns_of(chat_of(fields) or []))
    if not exchange.question or not (exchange.thinking or exchange.text):
        raise InvalidTrajectoryError(
            "the chat needs a text from a user and an answer from an assistant"
        )
    return exchange


def question_of(fields: dict[str, Any]) -> Any:
    """The question of a row of any format. Raises :class:`InvalidTrajectoryError`."""
    return _question(fields)[0]


def _question(fields: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """The question, and the field it was read from."""
    chat = chat_of(fields)
    if chat is not None:
        return exchange_of(fields).question, {}
    for name in (*QUESTION_FIELDS, *_MORE_QUESTION_FIELDS):
        if name in fields:
            return fields[name], {"question": name}
    names = " or ".join(map(repr, QUESTION_FIELDS))
    raise InvalidTrajectoryError(f"no question: expected a field {names}, got {sorted(fields)}")


def fields_of_generation(fields: dict[str, Any], index: int) -> dict[str, Any]:
    """A row of several ``generations`` as a row of one of them (:meth:`Generations.fields`)."""
    return Generations.of(fields).fields(index)


@dataclass(frozen=True)
class Generations:
    """A row of several ``generations``, sorted out once for all of them."""

    completions: list[Any]
    common: dict[str, Any]
    """Fields of the row as a whole; those with a list are replaced by one of its values."""
    lists: dict[str, list[Any]]
    """Fields with a value for each generation: lists as long as the generations."""

    @classmethod
    def of(cls, row: dict[str, Any]) -> Generations:
        """Other fields that could be read as the trace (a chat, steps, one thinking) belong to none
        of the generations and are left out; the question of such a chat stays.

        Raises :class:`InvalidTrajectoryError` for a chat that cannot be read.
        """
        completions = row["generations"]
        common = {name: value for name, value in row.items() if name != "generations"}
        lists = {
            name: value
            for name, value in common.items()
            if isinstance(value, list) and len(value) == len(completions)
        }
        for name in _TRACE_FIELDS & common.keys():
            if name in CHAT_FIELDS or name not in lists:
                del common[name]
                lists.pop(name, None)
        if not any(name in row for name in (*QUESTION_FIELDS, *_MORE_QUESTION_FIELDS)):
            asked = last_question(turns_of(chat_of(row) or []))
            common.update({} if asked is None else {"question": asked})
        return cls(completions, common, lists)

    def fields(self, index: int) -> dict[str, Any]:
        """The row of one generation, with its text in ``completion``."""
        own = {name: values[index] for name, values in self.lists.items()}
        return {**self.common, **own, "completion": self.completions[index]}


def _known_fields(
    fields: dict[str, Any], source: str | None, generation: int | None
) -> dict[str, Any]:
    """Outcome, source and metadata of a trajectory; the reference answer is in the metadata."""
    named, kept, answer = fields.get("source"), fields.get("metadata"), _answer(fields)
    metadata = dict(kept) if isinstance(kept, dict) else {}
    if generation is not None:
        metadata["generation"] = generation
    if answer is not None:
        metadata.setdefault("answer", answer)
    return {
        "outcome": _outcome(fields),
        "source": named if isinstance(named, str) else source,
        "metadata": metadata,
    }


def reference_answer(trajectory: Trajectory) -> str | None:
    """The right answer, if the trajectory's row gave it."""
    found = trajectory.metadata.get("answer")
    return found if isinstance(found, str) else None


def _answer(fields: dict[str, Any]) -> str | None:
    for name in ANSWER_FIELDS:
        value = fields.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                continue
            # Tables keep a column of whole numbers with gaps as floats.
            return str(int(value)) if value == int(value) else repr(value)
        if isinstance(value, str) and value.strip():
            # A whole solution ends with the answer; a short text is the answer.
            is_solution = len(value) > 80 or "####" in value or "\\boxed" in value
            if name == "solution" and not is_solution:
                continue
            return final_answer(value) if is_solution else value.strip()
    return None


def _outcome(fields: dict[str, Any]) -> bool | float | None:
    for name in OUTCOME_FIELDS:
        value = fields.get(name)
        if isinstance(value, (bool, int, float)):
            return value
    return None
