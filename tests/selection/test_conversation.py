from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime.selection import OutputOptions, Selection, select_traces
from rfprm_runtime.selection.conversation import messages_of
from rfprm_runtime.traces.formats import trajectory_from_record
from rfprm_runtime.traces.record import Place, Record
from selection.selection_helpers import read_jsonl, traces, write_jsonl
from tiny_models import fake_scorer

THOUGHT = "<think>\nI add.\n40 + 2 = 42.\n</think>\n\nThe answer is 42."


def record_of(fields: dict[str, Any]) -> Record:
    return Record(Place("rows.jsonl", "line", 1), fields)


QUESTION = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"question": "q", "completion": THOUGHT}, THOUGHT),
        ({"question": "q", "answer": "40 + 2\n#### 42"}, "40 + 2\n#### 42"),
        ({"question": "q", "steps": ["a", "b"]}, "a\n\nb"),
        ({"question": "q", "steps": ["a"], "response": "c"}, "<think>\na\n</think>\n\nc"),
        ({"question": "q", "reasoning": "a", "response": "c"}, "<think>\na\n</think>\n\nc"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": THOUGHT}]},
            THOUGHT,
        ),
        (
            {
                "messages": [
                    QUESTION,
                    {"role": "assistant", "reasoning_content": "a", "content": "c"},
                ]
            },
            "<think>\na\n</think>\n\nc",
        ),
    ],
)
def test_a_trace_becomes_a_question_and_an_answer(fields: dict[str, Any], answer: str) -> None:
    found = trajectory_from_record(fields)
    messages = messages_of(record_of(fields), found)
    assert messages == [QUESTION, {"role": "assistant", "content": answer}]


def test_a_system_prompt_is_kept() -> None:
    system = {"role": "system", "content": "Think."}
    fields = {"messages": [system, QUESTION, {"role": "assistant", "content": "a"}]}
    found = trajectory_from_record(fields)
    assert messages_of(record_of(fields), found)[:2] == [system, QUESTION]


def test_fields_that_trl_would_read_are_renamed(tmp_path: Path) -> None:
    rows = [{**row, "labels": [1], "prompt": "p"} for row in traces(3)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    with fake_scorer() as scorer:
        select_traces(
            scorer,
            source,
            tmp_path / "out.jsonl",
            Selection(top=1),
            options=OutputOptions(sft=True),
        )
    [row] = read_jsonl(tmp_path / "out.jsonl")
    assert not {"labels", "prompt", "completion"} & set(row)
    assert row["original_labels"] == [1]
    assert row["messages"][1]["content"] == row["original_completion"]
