"""What is measured of the runtime."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from rfprm_runtime import Trajectory, TrajectoryScore, notebook, ranking
from rfprm_runtime.answers import (
    compare,
    extraction,
    grouping,
    reach,
    references,
    spelled_numbers,
)
from rfprm_runtime.engine.prefix import plan_prefixes
from rfprm_runtime.errors import RfprmError
from rfprm_runtime.ground import made_from, parsing, thinking
from rfprm_runtime.prompt.encoding import EncodedTrajectory
from rfprm_runtime.prompt.windowing import plan_windows
from rfprm_runtime.rewards import completions
from rfprm_runtime.search.proposals import Proposal
from rfprm_runtime.search.step_format import StepFormat
from rfprm_runtime.search.tree import SearchTree
from rfprm_runtime.selection import conversation
from rfprm_runtime.traces import chats, formats, jsonl, outputs, prompts, templates
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.record import Place, Record
from rfprm_runtime.view import page, readings, scored_rows
from scripts.growth.targets import clean, measure, measure_all, pieces, trajectory

# The package has a function of the same name.
token_rewards = importlib.import_module("rfprm_runtime.rewards.token_rewards")

# Answers.
measure_all(extraction, "final_answer")
measure_all(spelled_numbers, "to_fraction")
measure_all(reach, "is_in_reach")
measure("answers_agree(text, 1)", lambda t: compare.answers_agree(t, "1"))
measure("answers_agree(text, text!)", lambda t: compare.answers_agree(t, t + "!"))
measure("need_algebra(pieces)", grouping.need_algebra, pieces)
measure("group_answers(pieces)", grouping.group_answers, pieces)
measure("acceptable_answers", references.acceptable_answers)
measure("count_votes(pieces)", lambda p: ranking.count_votes(p, [1.0] * len(p)), pieces)
measure("ranking.text_of", ranking.text_of, trajectory)
measure("is_answer", completions.is_answer)

# Traces as text.
measure_all(parsing, "split_steps", "split_trace")
measure_all(thinking, "opening_in", "parse_trace", "style_of")
measure("parse_trace(prompt)", lambda t: thinking.parse_trace(t, prompt=t))
measure("split_steps(lines)", lambda t: parsing.split_steps(t, "lines"))
measure("Trajectory.from_text", lambda t: Trajectory.from_text("q", t))
measure("Trajectory.build(pieces)", lambda p: Trajectory.build(question="q", steps=p), pieces)


def _merge(parts: list[str]) -> object:
    third = max(1, len(parts) // 3)
    return parsing.merge_steps(parts[third:], parts[:third])


measure("merge_steps(pieces, pieces)", _merge, pieces)
measure("merge_steps(pieces, two)", lambda p: parsing.merge_steps(p, [p[0], " ".join(p)]), pieces)


# Tokens.
def _own_steps(text: str, end: str = "") -> tuple[str, list[str]]:
    steps, response = parsing.split_trace(text)
    parts = [*steps, *response] or ["a"]
    parts[-1] += end
    return text, parts


def _find(given: tuple[str, list[str]]) -> object:
    return token_rewards.find_steps(*given)


def _half_and_more(text: str) -> tuple[str, list[str]]:
    return f"<think>{text}", [text[: len(text) // 2] + "!"]


measure("find_steps(its own steps)", _find, _own_steps)
measure("find_steps(other steps)", _find, lambda t: _own_steps(t, "!"))
measure("find_steps(one step of all words)", _find, lambda t: (t, [t]))
measure("find_steps(one step of half of the words)", _find, _half_and_more)
measure("find_steps(each word)", _find, lambda t: (t, t.split()))


def _decode(ids: list[int]) -> str:
    return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def _offsets(ids: list[int]) -> object:
    return token_rewards.token_offsets(ids, _decode)


def _bytes_of(text: str) -> list[int]:
    return list(text.encode("utf-8", "surrogatepass"))


measure("token_offsets(bytes)", _offsets, _bytes_of)
measure("token_offsets(no text)", _offsets, lambda t: [byte | 0x80 for byte in _bytes_of(t)])
measure("token_offsets(special tokens)", _offsets, lambda t: [256] * len(t) + [65])


def _characters(text: str) -> tuple[str, list[str], list[tuple[int, int]]]:
    return *_own_steps(text), [(index, index + 1) for index in range(len(text))]


measure("step_token_spans", lambda given: token_rewards.step_token_spans(*given), _characters)


def _encoded(text: str) -> EncodedTrajectory:
    """Tokens are characters, steps are pieces."""
    bounds = np.cumsum([8, *(len(piece) + 1 for piece in pieces(text))])
    ids, num_steps = np.zeros(int(bounds[-1]), np.int64), len(bounds) - 1
    return EncodedTrajectory(ids, bounds[1:] - 1, bounds, num_steps)


def _token_rows(text: str) -> list[Any]:
    return [np.array([ord(c) for c in piece], np.int64) for piece in pieces(text)]


measure("plan_windows", lambda row: plan_windows(row, 512), _encoded)
measure("plan_prefixes(pieces)", plan_prefixes, _token_rows)

# Prompts and messages.
measure_all(prompts, "question_of_prompt", "text_of_completion")
measure_all(prompts, "opening_of")
measure("text_after", lambda t: prompts.text_after(t, t))
measure_all(templates, "question_in_rendered", "turns_in", "without_end_tokens")
measure("said_in", lambda t: outputs.said_in(t, "text"))
measure("response_after", lambda t: prompts.response_after(t + t, t))


def _messages(text: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": piece} for i, piece in enumerate(pieces(text))]


def _parts(text: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": piece} for piece in pieces(text)]
    return [{"role": role, "content": parts} for role in ("user", "assistant")]


for _make in (_messages, _parts):
    _name = _make.__name__.lstrip("_")
    measure(f"question_of_prompt({_name})", prompts.question_of_prompt, _make)
    measure(f"text_of_completion({_name})", prompts.text_of_completion, _make)
    measure(f"last_exchange({_name})", lambda m: chats.last_exchange(chats.turns_of(m)), _make)


# Rows.
def _rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    parts = pieces(text)
    yield "text", {"question": text, "completion": text, "answer": text}
    yield "solution", {"question": "q", "solution": text}
    yield "steps", {"question": text, "steps": parts, "response": text}
    yield "thinking", {"question": "q", "thinking": text, "response": text}
    yield "thoughts", {"question": "q", "thinking": parts, "response": text}
    yield "messages", {"messages": _messages(text)}
    yield "fields", {"question": "q", "text": "a", **{f"f{i}": p for i, p in enumerate(parts)}}
    yield "generations", {"question": "q", "generations": parts, "is_correct": [True] * len(parts)}
    yield (
        "chat of generations",
        {"messages": _messages(text), "generations": parts[: len(parts) // 2]},
    )


def _row(name: str) -> Any:
    return lambda text: dict(_rows(text))[name]


def _each(row: dict[str, Any]) -> object:
    record = Record.of_row(Place("f", "line", 1), row, formats.Reading())
    return [one.trajectory for one in record.each()]


def _through_json(line: bytes) -> object:
    return jsonl.json_line(jsonl.parse_object(line))


for _name, _ in _rows("a b"):
    measure(f"trajectory_from_record({_name})", formats.trajectory_from_record, _row(_name))
    measure(f"Record.each({_name})", _each, _row(_name))
    measure(
        f"parse_object and json_line({_name})",
        _through_json,
        lambda t, of=_row(_name): json.dumps(of(t)).encode(),  # noqa: B008
    )
measure("parse_object(the text)", lambda b: jsonl.parse_object(b), lambda t: bytes(_bytes_of(t)))
measure(
    "differences",
    lambda p: made_from.differences({str(i): x for i, x in enumerate(p)}, {"a": {"b": p}}),
    pieces,
)


# Views.
def _score(of: Trajectory) -> TrajectoryScore:
    scores = np.full(len(of.steps), 0.5, np.float32)
    return TrajectoryScore(
        step_scores=scores, trajectory_score=0.5, reward=1.0, num_tokens=len(scores)
    )


def _scored_row(text: str) -> dict[str, Any]:
    found = trajectory(text)
    return {
        "question": found.question,
        "steps": list(found.steps),
        "response": list(found.response),
        "step_scores": [0.5] * len(found.steps),
        "trajectory_score": 0.5,
        "reward": 1.0,
        "messages": _messages(clean(text)),
        "more": {"text": text},
    }


def _scored_text(text: str) -> dict[str, Any]:
    try:
        num_steps = len(Trajectory.from_text("q", text).steps)
    except RfprmError:
        num_steps = 1
    return {"question": "q", "text": text, "step_scores": [0.5] * num_steps, "reward": 1.0}


def _page(text: str) -> page.PageContent:
    placed = page.PlacedTrace(0, 1, scored_rows.scored_trace(_scored_row(text)))
    return page.PageContent([text], [placed], [page.BadRow(text, text)], 1, [text])


measure("scored_trace(steps)", scored_rows.scored_trace, _scored_row)
measure("scored_trace(text)", scored_rows.scored_trace, _scored_text)
measure("read_trace", lambda t: readings.read_trace({"question": "q", "text": t}, -1, FieldNames()))
measure("without_repeats", lambda row: readings.without_repeats(row, row["question"]), _scored_row)
measure("page_html", lambda content: sum(map(len, page.page_html(content))), _page)
measure("show(trajectory)", lambda x: notebook.show(x, _score(x))._repr_html_(), trajectory)
measure("score_html", notebook.score_html, lambda t: _score(trajectory(t)))
measure(
    "messages_of",
    lambda given: conversation.messages_of(*given),
    lambda t: (
        Record.of_row(Place("f", "line", 1), _scored_row(t), formats.Reading()),
        trajectory(t),
    ),
)
measure("renamed_for_trl", conversation.renamed_for_trl, pieces)

# Search.
_FORMAT = StepFormat(close_thinking="</think>")
_STEP = Proposal("a", 1)
measure("StepFormat.read", lambda t: _FORMAT.read(t, 1, ended=None))
measure("StepFormat.ends_thinking", _FORMAT.ends_thinking)
measure("StepFormat.after_blank", lambda t: _FORMAT.after_blank(t, t))
measure("StepFormat.prompt_for", lambda p: _FORMAT.prompt_for("q", tuple(p)), pieces)
measure("StepFormat.with_response", lambda t: _FORMAT.with_response(_STEP, t, t, 1))


def _deep_tree(parts: list[str]) -> object:
    tree = SearchTree("q")
    node = tree.root
    for part in parts:
        node = tree.add(node, part)
    return tree.as_dict(), tree.trajectory(node)


def _wide_tree(parts: list[str]) -> object:
    tree = SearchTree("q")
    return [tree.add(tree.root, part) for part in parts], tree.as_dict()


measure("SearchTree(deep)", _deep_tree, pieces)
measure("SearchTree(wide)", _wide_tree, pieces)
