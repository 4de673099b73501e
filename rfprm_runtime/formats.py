"""The common formats of reasoning traces, read into one: a trajectory and its reference answer.

Knows the field names that data sets use; knows no files. Several generations to one question
become several candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rfprm_runtime.answers import final_answer
from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.parsing import SplitRule, split_steps
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
"""Where the thinking has a field of its own; the response is then in one of the next."""
RESPONSE_FIELDS = (
    "final_response",
    "response",
    "attempt",
    "deepseek_solution",
    "output",
    "completion",
    "solution",
)
CHAT_FIELDS = ("messages", "conversations", "conversation")
_TRACE_FIELDS = {"steps", *CHAT_FIELDS, *THINKING_FIELDS, *RESPONSE_FIELDS} - {"solution"}
"""What a trace can be read from; a ``solution`` beside several generations is the reference."""
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
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True)
class Candidate:
    """A trajectory; its ``metadata["answer"]`` holds the reference answer if there is one."""

    trajectory: Trajectory

    @property
    def answer(self) -> str | None:
        found = self.trajectory.metadata.get("answer")
        return found if isinstance(found, str) else None


def read_candidates(
    fields: dict[str, Any], *, split: SplitRule = "blank_lines", source: str | None = None
) -> Iterator[Candidate | InvalidTrajectoryError]:
    """Every trajectory of a record, or why there is none.

    Formats: ``steps`` (+ ``response``); a text with or without thinking tags; thinking and response
    in fields of their own; chat ``messages`` (role, content) or ``conversations`` (from, value),
    with ``reasoning_content`` beside an assistant's content; ``generations``, a list of texts.
    ``outcome`` and the reference answer are taken along where a field has them; ``metadata`` and
    ``source`` of a record that has them are kept.
    """
    generations = fields.get("generations")
    if isinstance(generations, list):
        for index in range(len(generations)):
            one = fields_of_generation(fields, index)
            yield _candidate(one, split, source, {"generation": index})
    else:
        yield _candidate(fields, split, source, {})


def trajectory_from_fields(
    fields: dict[str, Any], *, split: SplitRule = "blank_lines"
) -> Trajectory:
    """The one trajectory of a record, read as :func:`read_candidates` does.

    Raises :class:`InvalidTrajectoryError`, also for a record of several generations.
    """
    if isinstance(fields.get("generations"), list):
        raise InvalidTrajectoryError(
            "has several generations; rfprm select scores each of them, or give a line to each"
        )
    return _trajectory(fields, split)


def fields_of_generation(fields: dict[str, Any], index: int) -> dict[str, Any]:
    """A record of several ``generations`` as a record of one of them, in ``completion``.

    Other fields that could be read as the trace (a chat, steps, one thinking) are of none of the
    generations, and are left out; the question of such a chat stays.
    """
    count = len(fields["generations"])
    one = {}
    for name, value in fields.items():
        own = _of_generation(value, index, count)
        is_other_trace = name in _TRACE_FIELDS and (own is value or name in CHAT_FIELDS)
        if name != "generations" and not is_other_trace:
            one[name] = own
    if not any(name in fields for name in (*QUESTION_FIELDS, *_MORE_QUESTION_FIELDS)):
        asked = _question_of_chat(fields)
        one.update({} if asked is None else {"question": asked})
    return {**one, "completion": fields["generations"][index]}


def _question_of_chat(fields: dict[str, Any]) -> Any:
    """What a user says last in the record's chat, whether or not it is answered there."""
    asked = [
        content_of(message)
        for message in chat_of(fields) or ()
        if isinstance(message, dict) and role_of(message) == "user"
    ]
    return asked[-1] if asked else None


def _of_generation(value: Any, index: int, count: int) -> Any:
    """Fields that are lists of the same length speak of one generation each."""
    return value[index] if isinstance(value, list) and len(value) == count else value


def _candidate(
    fields: dict[str, Any], split: SplitRule, source: str | None, metadata: dict[str, Any]
) -> Candidate | InvalidTrajectoryError:
    try:
        trajectory = _trajectory(fields, split)
        answer = _answer(fields)
        kept = fields.get("metadata")
        metadata = {**(kept if isinstance(kept, dict) else {}), **metadata}
        if answer is not None:
            metadata.setdefault("answer", answer)
        named = fields.get("source")
        return Candidate(
            Trajectory.build(
                question=trajectory.question,
                steps=trajectory.steps,
                response=trajectory.response,
                outcome=_outcome(fields),
                source=named if isinstance(named, str) else source,
                metadata=metadata,
            )
        )
    except InvalidTrajectoryError as error:
        return error


def _trajectory(fields: dict[str, Any], split: SplitRule) -> Trajectory:
    if "steps" in fields:
        return _from_steps(fields, split)
    chat = chat_of(fields)
    if chat is not None:
        return _from_chat(chat, split)
    thinking = next((fields[n] for n in THINKING_FIELDS if fields.get(n)), None)
    if thinking is None:
        return _from_text(fields, split)
    question = question_of(fields)
    response = next((fields[n] for n in RESPONSE_FIELDS if isinstance(fields.get(n), str)), "")
    return _from_halves(question, thinking, response, split)


def _from_steps(fields: dict[str, Any], split: SplitRule) -> Trajectory:
    """Steps as a list, and the response as one too, or as a text that is split."""
    response = fields.get("response")
    if isinstance(response, str):
        response = split_steps(response, split)
    return Trajectory.build(
        question=question_of(fields),
        steps=fields["steps"],
        response=() if response is None else response,
    )


def _from_text(fields: dict[str, Any], split: SplitRule) -> Trajectory:
    """A text with or without thinking tags; last of all in ``answer``, as GSM8K has it."""
    text = text_of(fields)
    if text is None:
        names = " or ".join(map(repr, ("steps", *TEXT_FIELDS)))
        raise InvalidTrajectoryError(
            f"no steps and no text of a trace: expected a field {names}, got {sorted(fields)}"
        )
    return Trajectory.from_text(question_of(fields), text, split=split)


def text_of(fields: dict[str, Any]) -> str | None:
    """What a model wrote, where a record without steps and thinking fields has it as one text."""
    names = (*TEXT_FIELDS, *RESPONSE_FIELDS, "answer")
    return next((fields[name] for name in names if isinstance(fields.get(name), str)), None)


def _from_chat(messages: list[Any], split: SplitRule) -> Trajectory:
    """The last answer of an assistant to the last message of a user before it."""
    question = text = thinking = None
    for message in messages:
        if not isinstance(message, dict):
            raise InvalidTrajectoryError(
                f"a chat message is {type(message).__name__}, expected an object"
            )
        role, content = role_of(message), content_of(message)
        if role == "user":
            question = content
        elif role == "assistant":
            text, thinking = content, message.get("reasoning_content")
    if not isinstance(question, str) or not isinstance(text, str):
        raise InvalidTrajectoryError(
            "the chat holds no text of a user with an answer of an assistant"
        )
    if thinking:
        return _from_halves(question, thinking, text, split)
    return Trajectory.from_text(question, text, split=split)


def chat_of(fields: dict[str, Any]) -> list[Any] | None:
    """The messages of a record that is a chat."""
    return next((fields[name] for name in CHAT_FIELDS if isinstance(fields.get(name), list)), None)


def role_of(message: dict[str, Any]) -> str:
    """``user``, ``assistant``, or whatever else a chat message says of who wrote it."""
    name = str(message.get("role", message.get("from"))).lower()
    return _ROLES.get(name, name)


def content_of(message: dict[str, Any]) -> Any:
    """What a chat message says."""
    return message.get("content", message.get("value"))


def _from_halves(question: Any, thinking: Any, response: str, split: SplitRule) -> Trajectory:
    parts = thinking if isinstance(thinking, list) else [thinking]
    if not all(isinstance(part, str) for part in parts):
        raise InvalidTrajectoryError("the thinking is neither a string nor a list of strings")
    steps = [step for part in parts for step in split_steps(part, split)]
    return Trajectory.build(question=question, steps=steps, response=split_steps(response, split))


def question_of(fields: dict[str, Any]) -> Any:
    """The question of a record of any format. Raises :class:`InvalidTrajectoryError`."""
    chat = chat_of(fields)
    if chat is not None:
        return _from_chat(chat, "blank_lines").question
    for name in (*QUESTION_FIELDS, *_MORE_QUESTION_FIELDS):
        if name in fields:
            return fields[name]
    names = " or ".join(map(repr, QUESTION_FIELDS))
    raise InvalidTrajectoryError(f"no question: expected a field {names}, got {sorted(fields)}")


def _answer(fields: dict[str, Any]) -> str | None:
    for name in ANSWER_FIELDS:
        value = fields.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                continue
            # A column of whole numbers with gaps is one of floats in a table.
            return str(int(value)) if value == int(value) else repr(value)
        if isinstance(value, str) and value.strip():
            # A whole solution holds the answer at its end; a short text is the answer.
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
