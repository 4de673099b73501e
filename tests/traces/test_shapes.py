"""Rows in the shapes that data sets, servers and trainers write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rfprm_runtime import InvalidTrajectoryError, Trajectory
from rfprm_runtime.traces.choosing import FieldNames
from rfprm_runtime.traces.formats import Reading, fields_read, trajectory_from_record
from rfprm_runtime.traces.record import Place, Record
from tiny_models import fake_scorer

Q = "What is 5 * 8?"
T, A = "Five eights.\n\nThat is 40.", "It is 40."
THOUGHT = f"<think>\n{T}\n</think>\n\n{A}"
GOLD = "The book multiplies.\n\n#### 40"
USER, SAID = {"role": "user", "content": Q}, {"role": "assistant", "content": THOUGHT}
SYSTEM = {"role": "system", "content": "Think first."}
CHATML = (
    "<|im_start|>system\nThink.<|im_end|>\n"
    f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n"
)
STEPS = ("Five eights.", "That is 40.")


def read(row: dict[str, Any], **names: str) -> tuple[str, Any, Any, dict[str, str]]:
    fields = FieldNames(**names)
    found = trajectory_from_record(row, names=fields)
    return found.question, found.steps, found.response, fields_read(row, names=fields)


ONE_TRACE: dict[str, tuple[dict[str, Any], str, str]] = {
    "model_output beside a solution": (
        {"problem": Q, "solution": GOLD, "answer": "40", "model_output": THOUGHT},
        "problem", "model_output",
    ),
    "generated_solution beside an answer": (
        {"question": Q, "answer": GOLD, "generated_solution": THOUGHT},
        "question", "generated_solution",
    ),
    "prediction beside both": (
        {"problem": Q, "solution": GOLD, "answer": "40", "prediction": THOUGHT},
        "problem", "prediction",
    ),
    "the answer taken from the output": (
        {"problem": Q, "response": THOUGHT, "prediction": "40"}, "problem", "response",
    ),
    "a longer copy of the output": (
        {"problem": Q, "response": A, "output": THOUGHT}, "problem", "output",
    ),
    "the same output twice": (
        {"problem": Q, "response": THOUGHT, "output": THOUGHT}, "problem", "response",
    ),
    "a prompt beside its question": (
        {"question": Q, "prompt": CHATML, "completion": THOUGHT}, "question", "completion",
    ),
    "a rendered prompt": ({"prompt": CHATML, "completion": THOUGHT}, "prompt", "completion"),
    "end tokens": ({"prompt": Q, "output": THOUGHT + "<|im_end|>\n</s>"}, "prompt", "output"),
    "padding": (
        {"prompt": Q, "output": THOUGHT + "<|eot|><|finetune_right_pad_id|>[PAD]<unk>"},
        "prompt", "output",
    ),
    "one rendered text": ({"text": CHATML + THOUGHT + "<|im_end|>"}, "text", "text"),
    "one rendered text beside its question": (
        {"question": Q, "text": CHATML + THOUGHT}, "question", "text",
    ),
    "vLLM": (
        {"request_id": "7", "prompt": Q, "outputs": [{"index": 0, "text": THOUGHT}]},
        "prompt", "outputs",
    ),
    "vLLM as texts": ({"prompt": Q, "outputs": [THOUGHT]}, "prompt", "outputs"),
    "transformers": ({"prompt": Q, "generated_text": THOUGHT}, "prompt", "generated_text"),
    "a pipeline's chat": (
        {"prompt": Q, "generated_text": [USER, SAID]}, "prompt", "generated_text",
    ),
    "OpenAI beside its messages": (
        {"messages": [SYSTEM, USER], "choices": [{"index": 0, "message": SAID}]},
        "messages", "choices",
    ),
    "OpenAI completions": (
        {"prompt": Q, "choices": [{"text": THOUGHT, "finish_reason": "stop"}]}, "prompt", "choices",
    ),
    "an OpenAI batch joined with its requests": (
        {
            "custom_id": "a",
            "body": {"model": "m", "messages": [SYSTEM, USER]},
            "response": {"status_code": 200, "body": {"choices": [{"message": SAID}]}},
        },
        "body.messages", "response",
    ),
    "OpenAI's responses": (
        {
            "input": Q,
            "output": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": T}]},
                {"type": "message", "role": "assistant",
                 "content": [{"type": "output_text", "text": A}]},
            ],
        },
        "input", "output",
    ),
    "Anthropic": (
        {
            "prompt": Q,
            "response": {
                "type": "message", "role": "assistant",
                "content": [{"type": "thinking", "thinking": T}, {"type": "text", "text": A}],
            },
        },
        "prompt", "response",
    ),
    "Gemini": (
        {
            "prompt": Q,
            "candidates": [
                {"content": {"role": "model",
                             "parts": [{"text": T, "thought": True}, {"text": A}]}}
            ],
        },
        "prompt", "candidates",
    ),
    "TRL's conversations": (
        {"prompt": [SYSTEM, USER], "completion": [SAID]}, "prompt", "completion",
    ),
    "TRL with gaps filled": (
        {
            "prompt": [{"role": "user", "content": Q, "reasoning": None}],
            "completion": [{"role": "assistant", "content": A, "reasoning": T}],
        },
        "prompt", "completion",
    ),
    "verl": (
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": Q + " Think step by step."}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "40"},
            "extra_info": {"question": Q, "answer": GOLD, "index": 0},
            "responses": [THOUGHT],
        },
        "extra_info.question", "responses",
    ),
    "verl's rollouts": (
        {"input": CHATML, "output": THOUGHT, "gts": "40", "score": 1.0, "step": 3},
        "input", "output",
    ),
    "lm-eval": (
        {
            "doc_id": 0, "doc": {"question": Q, "answer": GOLD}, "target": "40",
            "resps": [[THOUGHT]], "filtered_resps": ["40"], "exact_match": 1.0,
        },
        "doc.question", "resps",
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": THOUGHT}]},
        "conversations", "conversations",
    ),
    "ShareGPT with gaps filled": (
        {
            "conversations": [
                {"from": "human", "value": Q, "role": None, "content": None},
                {"from": "gpt", "value": THOUGHT, "role": None, "content": None},
            ],
            "messages": None, "completion": "", "steps": [],
        },
        "conversations", "conversations",
    ),
    "a question that nobody answered yet": (
        {"messages": [USER, SAID, {"role": "user", "content": "And 5 * 9?"}]},
        "messages", "messages",
    ),
    "Alpaca": (
        {"instruction": "Compute.", "input": Q, "output": THOUGHT},
        "instruction and input", "output",
    ),
    "Alpaca without input": (
        {"instruction": Q, "input": "", "output": THOUGHT}, "instruction", "output",
    ),
    "Numina": ({"problem": Q, "solution": THOUGHT, "answer": "40"}, "problem", "solution"),
    "OpenR1 with one generation": (
        {"problem": Q, "solution": GOLD, "generations": [THOUGHT]}, "problem", "generations",
    ),
    "PRM800K's question": (
        {"question": {"problem": Q, "ground_truth_answer": "40"}, "output": THOUGHT},
        "question.problem", "output",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_TRACE)
def test_one_trace(name: str) -> None:
    row, question_field, text_field = ONE_TRACE[name]
    question, steps, response, read_from = read(row)
    asked = {"instruction and input": f"Compute.\n\n{Q}"}.get(question_field, Q)
    assert (question, steps, response) == (asked, STEPS, (A,))
    assert read_from == {"question": question_field, "text": text_field}


HALVES: dict[str, tuple[dict[str, Any], str, str]] = {
    "OpenThoughts": (
        {"problem": Q, "deepseek_reasoning": T, "deepseek_solution": A,
         "ground_truth_solution": GOLD},
        "deepseek_reasoning", "deepseek_solution",
    ),
    "s1K": (
        {"question": Q, "solution": GOLD, "cot": None, "thinking_trajectories": [T], "attempt": A},
        "thinking_trajectories", "attempt",
    ),
    "s1K of one model": (
        {"question": Q, "solution": GOLD, "deepseek_thinking_trajectory": T,
         "deepseek_attempt": A, "deepseek_grade": "Yes"},
        "deepseek_thinking_trajectory", "deepseek_attempt",
    ),
    "vLLM's names": (
        {"prompt": Q, "reasoning": T, "reasoning_content": T, "content": "x", "response": A},
        "reasoning", "response",
    ),
    "a flag of the same name": (
        {"prompt": Q, "thinking": True, "reasoning": T, "response": A}, "reasoning", "response",
    ),
    "an answer alone": ({"question": Q, "thought": T, "answer": A}, "thought", "answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", HALVES)
def test_thinking_in_a_field_of_its_own(name: str) -> None:
    row, thinking, text = HALVES[name]
    _, steps, response, read_from = read(row)
    assert (steps, response) == (STEPS, (A,))
    assert (read_from["thinking"], read_from["response"]) == (thinking, text)


LISTED: dict[str, tuple[dict[str, Any], list[Any] | None]] = {
    "a list": ({"problem": Q, "steps": [*STEPS]}, None),
    "one text": ({"problem": Q, "steps": T}, None),
    "objects": (
        {"problem": Q, "steps": [{"text": s, "label": n} for n, s in enumerate(STEPS)]}, [0, 1],
    ),
    "TRL's stepwise rows": (
        {"prompt": Q, "completions": [*STEPS], "labels": [True, False]}, [True, False],
    ),
    "Math-Shepherd": (
        {
            "input": f"{Q} Step 1: {STEPS[0]} ки\nStep 2: {STEPS[1]} ки",
            "label": f"{Q} Step 1: {STEPS[0]} +\nStep 2: {STEPS[1]} -",
            "task": "GSM8K",
        },
        [True, False],
    ),
    "PRM800K": (
        {
            "question": {"problem": Q, "ground_truth_answer": "40"},
            "label": {
                "steps": [
                    {"completions": [{"text": "no", "rating": -1}, {"text": STEPS[0], "rating": 1}],
                     "human_completion": None, "chosen_completion": 1},
                    {"completions": [{"text": STEPS[1], "rating": -1}],
                     "human_completion": None, "chosen_completion": None},
                ],
                "finish_reason": "found_error",
            },
        },
        [1, -1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
def test_steps_with_their_labels(name: str) -> None:
    row, labels = LISTED[name]
    found = trajectory_from_record(row)
    texts = [step.removeprefix("Step 1: ").removeprefix("Step 2: ") for step in found.steps]
    assert (found.question, tuple(texts)) == (Q, STEPS)
    assert found.metadata.get("step_labels") == labels
    assert fields_read(row)["steps"]


AMBIGUOUS: dict[str, tuple[dict[str, Any], tuple[str, str], str, dict[str, str]]] = {
    "two outputs": (
        {"problem": Q, "response": THOUGHT, "output": "It is 41."},
        ("response", "output"), "text", {"text": "response"},
    ),
    "a chat and an output": (
        {"messages": [USER, SAID], "completion": "It is 41."},
        ("messages", "completion"), "text", {"text": "messages"},
    ),
    "two questions": (
        {"question": "Another?", "problem": Q, "output": THOUGHT},
        ("question", "problem"), "question", {"question": "problem"},
    ),
    "two thoughts": (
        {"question": Q, "thinking": T, "reasoning": "Other.", "response": A},
        ("thinking", "reasoning"), "thinking", {"thinking": "thinking"},
    ),
    "two models": (
        {"question": Q, "gemini_thinking_trajectory": "Other.", "gemini_attempt": "No.",
         "deepseek_thinking_trajectory": T, "deepseek_attempt": A},
        ("gemini_thinking_trajectory", "deepseek_thinking_trajectory"), "thinking",
        {"thinking": "deepseek_thinking_trajectory"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguity_is_refused_until_a_field_is_named(name: str) -> None:
    row, both, part, names = AMBIGUOUS[name]
    with pytest.raises(InvalidTrajectoryError) as refused:
        trajectory_from_record(row)
    assert all(repr(field) in str(refused.value) for field in both)
    assert f"--{part}-field" in str(refused.value)
    question, steps, response, read_from = read(row, **names)
    assert (question, steps, response) == (Q, STEPS, (A,))
    assert names.items() <= read_from.items()


def test_the_response_of_a_model_goes_with_its_thinking() -> None:
    row = AMBIGUOUS["two models"][0]
    assert read(row, text="deepseek_attempt")[1:3] == (STEPS, (A,))


def test_any_field_can_be_named() -> None:
    row = {"a": {"b": Q}, "extra_info": {"q": Q}, "mine": THOUGHT, "right": "40", "list": [*STEPS]}
    found = trajectory_from_record(
        row, names=FieldNames(question="extra_info.q", text="mine", answer="right")
    )
    assert (found.question, found.steps, found.metadata["answer"]) == (Q, STEPS, "40")
    assert read(row, question="q", steps="list")[1] == STEPS
    with pytest.raises(InvalidTrajectoryError, match=r"has no field 'nope'.*it has"):
        read(row, question="q", text="nope")
    with pytest.raises(ValueError, match="the text field is 7, expected the name"):
        FieldNames(text=7)  # type: ignore[arg-type]


SEVERAL: dict[str, dict[str, Any]] = {
    "generations": {"problem": Q, "generations": [THOUGHT, "No."], "solution": GOLD},
    "completions": {"prompt": Q, "completions": [THOUGHT, "No."]},
    "responses": {"prompt": [USER], "responses": [THOUGHT, "No."]},
    "outputs": {"prompt": Q, "outputs": [{"text": THOUGHT}, {"text": "No."}]},
    "choices": {
        "messages": [USER],
        "choices": [{"message": SAID}, {"message": {"role": "assistant", "content": "No."}}],
    },
    "resps": {"doc": {"question": Q}, "resps": [[THOUGHT, "No."]]},
    "pairs": {"prompt": Q, "chosen": THOUGHT, "rejected": "No."},
    "pairs of chats": {
        "chosen": [USER, SAID],
        "rejected": [USER, {"role": "assistant", "content": "No."}],
    },
    "chats": {"prompt": [USER], "completions": [[SAID], [{"role": "assistant", "content": "No."}]]},
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_outputs_are_several_traces(name: str) -> None:
    row = SEVERAL[name]
    first, second = Record(Place("rows.jsonl", "line", 1), row).each()
    good, bad = first.trajectory, second.trajectory
    assert isinstance(good, Trajectory), good
    assert isinstance(bad, Trajectory), bad
    assert (good.question, good.steps, good.response) == (Q, STEPS, (A,))
    assert (bad.question, bad.steps, second.place.generation) == (Q, ("No.",), 1)
    with pytest.raises(InvalidTrajectoryError, match="2 generations"):
        trajectory_from_record(row)


def test_the_options_of_a_question_are_no_outputs() -> None:
    row = {"question": Q, "choices": ["39", "40"], "answer": "B", "output": THOUGHT}
    assert read(row)[3]["text"] == "output"
    row = {"question": Q, "choices": {"text": ["39", "40"], "label": ["A", "B"]}, "output": THOUGHT}
    assert read(row)[3]["text"] == "output"


@pytest.mark.parametrize("nothing", [None, float("nan"), "", "  ", [], {}, pd.NA, [None], np.nan])
@pytest.mark.parametrize("field", ["question", "steps", "completion", "messages", "thinking"])
def test_nothing_is_the_same_as_absent(nothing: Any, field: str) -> None:
    row = {"problem": Q, "output": THOUGHT}
    assert read({field: nothing, **row}) == read(row)


@pytest.mark.parametrize("name", ["model_output", "response", "generations", "steps"])
def test_an_empty_output_is_not_replaced_by_the_reference_alone(name: str) -> None:
    """With nothing else to read, the field that is empty is named."""
    with pytest.raises(InvalidTrajectoryError, match=f"'{name}' is empty"):
        trajectory_from_record({"question": Q, name: None})


def test_arrays_of_a_data_frame_are_lists() -> None:
    frame = pd.DataFrame({"problem": [Q], "steps": [np.array(STEPS, dtype=object)]})
    [row] = frame.to_dict("records")
    assert read(row)[1] == STEPS


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        ("True", True),
        ("false", False),
        (True, True),
        (0.5, 0.5),
        ("maybe", None),
        ("Correct", True),
    ],
)
def test_outcomes_spelled_as_words(value: Any, outcome: Any) -> None:
    row = {"problem": Q, "output": A, "is_correct": value}
    assert trajectory_from_record(row).outcome == outcome


def test_without_outcome_nothing_but_the_trace_is_read() -> None:
    record = Record(
        Place("rows.jsonl", "line", 1),
        {"problem": Q, "output": A, "is_correct": 7},
        reading=Reading(with_outcome=False),
    )
    assert isinstance(record.trajectory, Trajectory)
    assert record.read_from == "question from 'problem', text from 'output'"


def test_rows_and_pairs_are_scored_like_trajectories() -> None:
    row, pair = {"problem": Q, "model_output": THOUGHT, "solution": GOLD}, (Q, THOUGHT)
    chat = {"messages": [USER, SAID]}
    with fake_scorer() as scorer:
        expected = scorer.score_batch([Trajectory.from_text(*pair)])
        assert scorer.score_batch([row, pair, [*pair], chat]) == expected * 4
        found = scorer.score_batch(
            [SEVERAL["generations"], {"problem": Q}, (Q,), (7, T), 7, pair], on_error="return"
        )
    assert all(isinstance(error, InvalidTrajectoryError) for error in found[:-1])
    assert found[-1] == expected[0]
    assert "a pair of question and text" in str(found[3])
