"""What the fields of a row mean: rows of reasoning traces, read into trajectories.

The tables of ``names`` say which field may be what, ``choosing`` which one is; here they become a
trajectory, with the fields it was read from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import check_choice
from rfprm_runtime.ground.parsing import SplitRule, split_steps, split_trace
from rfprm_runtime.ground.thinking import parse_trace
from rfprm_runtime.traces.candidates import (
    TRACE_FIELDS,
    candidates_of,
    several_outputs,
)
from rfprm_runtime.traces.chats import half_a_chat, last_exchange, turns_of
from rfprm_runtime.traces.choosing import (
    FieldNames,
    ambiguous,
    first_present,
    models_halves,
    only_one,
    words_of,
)
from rfprm_runtime.traces.content import Said
from rfprm_runtime.traces.known import known_fields
from rfprm_runtime.traces.layouts import Steps, chat_in, steps_in, unwrapped
from rfprm_runtime.traces.names import (
    OUTPUT_RANKS,
    REFERENCE_FIELDS,
    RENDERED_FIELDS,
    THINKING_FIELDS,
)
from rfprm_runtime.traces.outputs import said_in
from rfprm_runtime.traces.present import first_empty
from rfprm_runtime.traces.prompts import opening_of
from rfprm_runtime.traces.questions import read_question
from rfprm_runtime.types import Trajectory

_RESPONSE_OF_STEPS = ("response", "final_response")


@dataclass(frozen=True)
class Reading:
    """How rows are read."""

    split: SplitRule = "blank_lines"
    """What separates the steps of a text."""
    with_outcome: bool = True
    """Whether to read the outcome, the reference answer, the source and the metadata too. Scoring
    needs none of them, and without them an invalid outcome does not cost a score."""
    names: FieldNames = field(default_factory=FieldNames)
    """Which fields to read; by default they are found by their names."""

    def __post_init__(self) -> None:
        check_choice("split", self.split, get_args(SplitRule))


@dataclass(frozen=True)
class Parts:
    """The parts of a row's trace, before validation."""

    question: Any
    steps: Any
    response: Any = ()
    read_from: Mapping[str, str] = field(default_factory=dict)
    """Which field each part was read from, ``object.field`` inside another."""
    labels: list[Any] | None = None
    """The row's own labels of its steps."""
    written: Said | None = None
    """What the model wrote, before it was split; None if the row lists steps."""

    def build(self, **known: Any) -> Trajectory:
        """The validated trajectory, with the fields in ``known`` added.

        Raises :class:`InvalidTrajectoryError`.
        """
        return Trajectory.build(
            question=self.question, steps=self.steps, response=self.response, **known
        )


def trajectory_from_record(
    row: Mapping[str, Any],
    *,
    split: SplitRule = "blank_lines",
    names: FieldNames | None = None,
) -> Trajectory:
    """The one trajectory of a row of any layout that people use: docs/rows.md lists them.

    ``names``: the fields to read, where the row leaves a choice. Outcome and reference answer (as
    ``metadata["answer"]``), labels of steps (``metadata["step_labels"]``), ``metadata`` and
    ``source`` are kept. :func:`fields_read` says which fields were read.

    Raises :class:`InvalidTrajectoryError`: no question or no trace, two fields that could be the
    same part, several outputs.
    """
    return read_trajectory(row, Reading(split, names=names or FieldNames()))


def fields_read(row: Mapping[str, Any], *, names: FieldNames | None = None) -> dict[str, str]:
    """The fields that :func:`trajectory_from_record` reads: ``{"question": "problem", …}``.

    The parts are ``question`` with ``text``, with ``thinking`` and ``response``, or with ``steps``.
    """
    if is_canonical(row):
        return {part: part for part in ("question", "steps", "response") if row[part]}
    return dict(read_parts(row, Reading(names=names or FieldNames())).read_from)


def described(read_from: Mapping[str, str]) -> str:
    """A reading in words: ``question from 'problem', text from 'completion'``."""
    return ", ".join(f"{part} from {name!r}" for part, name in read_from.items())


def read_trajectory(
    row: Mapping[str, Any],
    reading: Reading,
    *,
    source: str | None = None,
) -> Trajectory:
    """The same. ``source``: the name of the data if the row gives none."""
    if reading.with_outcome and is_canonical(row):
        own = row["source"]
        return Trajectory.build(**{**row, "source": source if own is None else own})
    return build_trajectory(row, read_parts(row, reading), reading, source=source)


def build_trajectory(
    row: Mapping[str, Any],
    parts: Parts,
    reading: Reading,
    *,
    source: str | None = None,
    generation: int | None = None,
) -> Trajectory:
    """The trajectory of a row whose parts are read. ``generation``: which of its outputs it is."""
    if not reading.with_outcome:
        return parts.build()
    fields = unwrapped(row)
    answer = reading.names.given("answer", fields)
    known = known_fields(fields, answer, parts.labels, source)
    if generation is not None:
        known["metadata"]["generation"] = generation
    return parts.build(**known)


_CANONICAL_FIELDS = set(Trajectory.model_fields)


def is_canonical(row: Mapping[str, Any]) -> bool:
    """Whether a row is a trajectory as ``rfprm curate`` writes it, with nothing left to guess."""
    return (
        row.keys() == _CANONICAL_FIELDS
        and isinstance(row["steps"], list)
        and isinstance(row["response"], list)
        and isinstance(row["source"], (str, type(None)))
        and isinstance(row["metadata"], dict)
        and isinstance(row["outcome"], (bool, int, float, type(None)))
    )


def read_parts(row: Mapping[str, Any], reading: Reading, *, output: str | None = None) -> Parts:
    """Question, steps and response, and the fields they were read from.

    ``output``: the field that holds the output, in a row made by :meth:`Candidates.row`.
    Raises :class:`InvalidTrajectoryError`.
    """
    if output is None:
        candidates = candidates_of(row, reading.names)
        if candidates is not None and len(candidates.outputs) != 1:
            raise several_outputs(candidates)
        if candidates is not None:
            row, output = candidates.row(0), candidates.path
    fields, names = unwrapped(row), reading.names
    if output is None and names.text is None:
        listed = steps_in(fields, reading.split, names.given("steps", fields))
        if listed is not None:
            return _from_steps(row, fields, listed, reading)
    return _from_output(fields, reading, output, row)


def _from_steps(
    row: Mapping[str, Any], fields: dict[str, Any], listed: Steps, reading: Reading
) -> Parts:
    """Steps as a list; the response as a list, or as a text to split."""
    if listed.question is None:
        question, read_from = read_question(row, fields, reading.names)
    else:
        question, read_from = listed.question, {"question": listed.read_from}
    read_from |= {"steps": listed.read_from}
    path = first_present(fields, _RESPONSE_OF_STEPS)
    response = fields[path] if path is not None else ()
    if path is not None:
        read_from |= {"response": path}
    if isinstance(response, str):
        response = split_steps(response, reading.split)
    return Parts(question, listed.texts, response, read_from, listed.labels)


def _from_output(
    fields: dict[str, Any], reading: Reading, output: str | None, row: Mapping[str, Any]
) -> Parts:
    thinking, text = _halves(fields, reading.names, output)
    if (thinking is None and text is None) or (output is not None and output not in fields):
        raise _nothing_to_read(fields, row)
    question, read_from = read_question(row, fields, reading.names, text)
    said = Said("", "") if text is None else said_in(fields[text], text)
    if not said.thinking and (asked := read_from["question"]) != text:
        said = Said("", opening_of(fields.get(asked)) + said.text)
    if thinking is not None and not said.thinking and not parse_trace(said.text).thinking:
        said = Said(_thought_in(fields[thinking], thinking), said.text)
    else:  # the output brings its own
        thinking = None
    found = {"thinking": thinking, "text" if thinking is None else "response": text}
    read_from |= {part: path for part, path in found.items() if path is not None}
    return Parts(question, *_split(said, reading.split), read_from, written=said)


def _split(said: Said, split: SplitRule) -> tuple[list[str], list[str]]:
    if said.thinking:
        return split_steps(said.thinking, split), split_steps(said.text, split)
    return split_trace(said.text, split)


def _halves(
    fields: dict[str, Any], names: FieldNames, output: str | None
) -> tuple[str | None, str | None]:
    """The fields of the thinking and of the output."""
    thinking, text = names.given("thinking", fields), output or names.given("text", fields)
    halves = models_halves(fields)
    if thinking is None:
        ours = [name for name, response in halves.items() if text in (None, response)]
        if len(ours) > 1:
            raise ambiguous(ours[0], ours[1], "thinking")
        thinking = ours[0] if ours else only_one(fields, THINKING_FIELDS, "thinking")
    if text is None:
        text = halves.get(thinking or "") or _output(fields) or _last_resort(fields, thinking)
    return thinking, text


def _output(fields: dict[str, Any]) -> str | None:
    """What a model wrote: a field, or the answer in a chat."""
    ranks = (only_one(fields, rank, "text") for rank in OUTPUT_RANKS)
    path = next((found for found in ranks if found is not None), None)
    chat = _answered_chat(fields)
    if chat is None or path is None:
        return chat or path
    in_chat, in_field = (words_of(said_in(fields[name], name).text) for name in (chat, path))
    if in_chat not in in_field and in_field not in in_chat:
        raise ambiguous(chat, path, "text")
    return chat if in_field in in_chat else path


def _answered_chat(fields: dict[str, Any]) -> str | None:
    """The field of a chat, unless it ends with a question: then it is the prompt."""
    path = chat_in(fields)
    if path is None or turns_of(fields[path])[-1].role == "user":
        return None
    return path if _has_answer(fields[path]) else None


def _last_resort(fields: dict[str, Any], thinking: str | None) -> str | None:
    """A chat that goes on after its answer, a text that may hold the prompt too, a reference."""
    chat = chat_in(fields)
    if chat is not None and thinking is None and _has_answer(fields[chat]):
        return chat
    return first_present(fields, (*RENDERED_FIELDS, *REFERENCE_FIELDS), texts_only=True)


def _has_answer(messages: list[Any]) -> bool:
    exchange = last_exchange(turns_of(messages))
    return bool(exchange.thinking or exchange.text)


def _thought_in(value: Any, path: str) -> str:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise InvalidTrajectoryError(f"{path!r} is neither a string nor a list of strings")
    return "\n\n".join(part for part in parts if part.strip())


def _nothing_to_read(fields: dict[str, Any], row: Mapping[str, Any]) -> InvalidTrajectoryError:
    readable = {*TRACE_FIELDS, *REFERENCE_FIELDS}
    empty = first_empty(row, readable)
    if empty is not None:
        return InvalidTrajectoryError(f"its {empty!r} is empty, so there is nothing to score")
    if chat_in(fields) is not None:
        return half_a_chat()
    return InvalidTrajectoryError(
        "no steps and no text of a trace: expected a field 'steps', 'completion', 'response', "
        f"'messages' or another that docs/rows.md lists, got {sorted(fields)}; name another with "
        "--text-field or --steps-field"
    )
