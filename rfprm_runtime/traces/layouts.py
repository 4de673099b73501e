"""Rows whose fields stand inside others, and rows of steps: published layouts, taken apart.

Knows PRM800K, Math-Shepherd, TRL's stepwise rows, preference pairs, and the objects that lm-eval,
verl and batch files put around a row. ``formats`` reads what is left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import is_nothing, shown
from rfprm_runtime.ground.parsing import SplitRule, split_steps
from rfprm_runtime.traces.chats import CHAT_FIELDS
from rfprm_runtime.traces.content import first_of
from rfprm_runtime.traces.names import CANDIDATE_FIELDS, ENVELOPES, STEP_LABELS, STEP_TEXTS
from rfprm_runtime.traces.outputs import is_output
from rfprm_runtime.traces.present import present

_MAX_DEPTH = 3
# The two outputs of a preference pair, as a list of two.
_PAIR, _BOTH = {"chosen", "rejected"}, "chosen and rejected"


class Steps(NamedTuple):
    """Steps that a row lists, where it has them, and its labels of them."""

    texts: Any
    read_from: str
    labels: list[Any] | None = None
    question: str | None = None
    """The question, where it stands in the same field."""


def unwrapped(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that hold something, those inside known objects as ``object.field``.

    A row's own field comes before one of the same name inside an object.
    """
    fields: dict[str, Any] = {}
    inner = [("", present(row))]
    for _ in range(_MAX_DEPTH):
        found = []
        for path, values in inner:
            for name, value in values.items():
                if name in ENVELOPES and isinstance(value, Mapping) and not is_output(value):
                    found.append((f"{path}{name}.", present(value)))
                else:
                    fields[path + name] = value
        inner = found
    if fields.keys() >= _PAIR:
        fields[_BOTH] = [fields.pop("chosen"), fields.pop("rejected")]
    return fields


def named(fields: Mapping[str, Any], name: str) -> str | None:
    """The path of a field called ``name``, itself or inside an object."""
    if name in fields:
        return name
    return next((path for path in fields if path.endswith("." + name)), None)


def chat_in(fields: Mapping[str, Any]) -> str | None:
    """The path of a list of messages."""
    paths = (named(fields, name) for name in CHAT_FIELDS)
    return next((p for p in paths if p is not None and isinstance(fields[p], list)), None)


def steps_in(fields: Mapping[str, Any], split: SplitRule, given: str | None = None) -> Steps | None:
    """The steps that a row lists. ``given``: the field that holds them."""
    if given is not None:
        return _listed(fields[given], given, split)
    for layout in (_shepherd, _stepwise, _prm800k):
        found = layout(fields)
        if found is not None:
            return found
    path = named(fields, "steps")
    return None if path is None else _listed(fields[path], path, split)


def candidates_in(fields: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Several outputs to one question, and the field that lists them."""
    if _stepwise(fields) is not None:
        return None
    for name in CANDIDATE_FIELDS:
        path = named(fields, name)
        if path is not None and (found := _outputs(name, fields[path])):
            return path, found
    found = fields.get(_BOTH)
    return (_BOTH, found) if isinstance(found, list) and len(found) == 2 else None


def _outputs(name: str, value: Any) -> list[Any] | None:
    if not isinstance(value, list):
        return None
    if name == "resps" and all(isinstance(item, list) for item in value):
        value = [text for item in value for text in item]  # one list for each request
    if name == "choices":  # of a server; the options of a question are texts
        return list(value) if all(map(is_output, value)) else None
    if all(isinstance(item, (str, list)) or is_output(item) or is_nothing(item) for item in value):
        return list(value)
    return None


def _listed(steps: Any, path: str, split: SplitRule) -> Steps:
    """Texts, one text to split, or objects with a text and perhaps a label."""
    if isinstance(steps, str):
        return Steps(split_steps(steps, split), path)
    if not isinstance(steps, list) or not any(isinstance(step, Mapping) for step in steps):
        return Steps(steps, path)
    if not all(isinstance(step, Mapping) for step in steps):
        raise InvalidTrajectoryError(f"{path!r} holds both texts and objects, expected one of them")
    texts = [first_of(step, STEP_TEXTS) for step in steps]
    bad = next((index for index, text in enumerate(texts) if not isinstance(text, str)), None)
    if bad is not None:
        raise InvalidTrajectoryError(
            f"step {bad} (from 0) of {path!r} has {sorted(map(str, steps[bad]))}, expected a text "
            f"in one of {list(STEP_TEXTS)}"
        )
    return Steps(texts, path, _labels([first_of(step, STEP_LABELS) for step in steps]))


def _stepwise(fields: Mapping[str, Any]) -> Steps | None:
    """TRL's stepwise rows: ``completions`` are the steps, ``labels`` say which are right."""
    steps = fields.get("completions")
    labels = first_of(fields, ("labels", "original_labels"))  # as rfprm select --sft renames them
    if not (isinstance(steps, list) and isinstance(labels, list) and len(steps) == len(labels)):
        return None
    if not all(isinstance(label, (bool, int, float)) for label in labels):
        return None
    return Steps(steps, "completions", labels)


_SHEPHERD_MARK = "ки"
_SHEPHERD_STEP = re.compile(r"(?:^|\s)Step 1\s*:")


def _shepherd(fields: Mapping[str, Any]) -> Steps | None:
    """Math-Shepherd (arXiv 2312.08935): ``input`` ends each step with ки, ``label`` with + or -."""
    text, labelled = fields.get("input"), fields.get("label")
    if not (isinstance(text, str) and isinstance(labelled, str) and _SHEPHERD_MARK in text):
        return None
    first = _SHEPHERD_STEP.search(text)
    if first is None:
        return None
    steps = [part.strip() for part in text[first.start() :].split(_SHEPHERD_MARK)]
    marks = [line.rstrip()[-1:] for line in labelled.splitlines() if line.rstrip()]
    labels = [mark == "+" for mark in marks if mark in "+-"]
    steps = [step for step in steps if step]
    known = labels if len(labels) == len(steps) else None
    return Steps(steps, "input", known, text[: first.start()].strip())


def _prm800k(fields: Mapping[str, Any]) -> Steps | None:
    """PRM800K (arXiv 2305.20050): the completion that was chosen at each step, with its rating."""
    label = fields.get("label")
    steps = label.get("steps") if isinstance(label, Mapping) else None
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        return None
    chosen = [completion for step in steps if (completion := _chosen(step)) is not None]
    texts = [completion.get("text") for completion in chosen]
    return Steps(texts, "label.steps", _labels([item.get("rating") for item in chosen]))


def _chosen(step: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The completion that went on, or the last one of a solution: a mistake has no successor."""
    human = step.get("human_completion")
    if isinstance(human, Mapping):
        return human
    if isinstance(human, str):
        return {"text": human}
    completions, index = step.get("completions"), step.get("chosen_completion")
    if not isinstance(completions, list) or not completions:
        return None
    index = index if isinstance(index, int) and 0 <= index < len(completions) else 0
    found = completions[index]
    if not isinstance(found, Mapping):
        raise InvalidTrajectoryError(
            f"a completion of a step is {shown(found)}, expected an object"
        )
    return found


def _labels(labels: list[Any]) -> list[Any] | None:
    return None if all(is_nothing(label) for label in labels) else labels
