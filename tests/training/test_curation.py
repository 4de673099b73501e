from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError
from rfprm_runtime.traces.formats import trajectory_from_record
from rfprm_runtime.traces.known import reference_answer
from rfprm_runtime.traces.sources import read_records
from rfprm_runtime.types import Trajectory
from rfprm_training import TrainingError
from rfprm_training.curation.config import CurationConfig, FilterConfig, read_curation_config
from rfprm_training.curation.contamination import EvaluationQuestions
from rfprm_training.curation.duplicates import NearDuplicates, rows_per_band
from rfprm_training.curation.filters import reason_to_drop, repeated_share
from rfprm_training.curation.pipeline import curate
from traces.one_row import trajectories_of

THOUGHT = "<think>\nI add.\n\n40 + 2 = 42.\n</think>\n\nThe answer is 42."


@pytest.mark.parametrize(
    "fields",
    [
        {"question": "q", "steps": ["I add.", "40 + 2 = 42."], "response": "The answer is 42."},
        {"problem": "q", "completion": THOUGHT},
        {"prompt": "q", "text": THOUGHT},
        {"instruction": "q", "output": THOUGHT},
        {"input": "q", "steps": ["I add.", "40 + 2 = 42."], "response": ["The answer is 42."]},
        {"question": "q", "reasoning": "I add.\n\n40 + 2 = 42.", "response": "The answer is 42."},
        {
            "question": "q",
            "thinking_trajectories": ["I add.\n\n40 + 2 = 42."],
            "attempt": "The answer is 42.",
        },
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": THOUGHT}]},
        {
            "messages": [
                {"role": "system", "content": "think"},
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "reasoning_content": "I add.\n\n40 + 2 = 42.",
                    "content": "The answer is 42.",
                },
            ]
        },
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": THOUGHT}]},
        {"problem": "q", "generations": [THOUGHT]},
    ],
)
def test_common_formats_become_the_same_trajectory(fields: dict[str, Any]) -> None:
    (trajectory,) = trajectories_of(fields)
    assert isinstance(trajectory, Trajectory)
    assert trajectory.question == "q"
    assert trajectory.steps == ("I add.", "40 + 2 = 42.")
    assert trajectory.response == ("The answer is 42.",)


def test_generations_take_their_own_outcome() -> None:
    row = {
        "problem": "q",
        "answer": "42",
        "generations": [THOUGHT, "It is 41."],
        "correctness_math_verify": [True, False],
    }
    found = [item for item in trajectories_of(row) if isinstance(item, Trajectory)]
    assert [item.outcome for item in found] == [True, False]
    assert list(map(reference_answer, found)) == ["42", "42"]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"answer": "42"}, "42"),
        ({"answer": 42}, "42"),
        ({"target": "(B)"}, "(B)"),
        ({"ground_truth": "40 + 2 = 42\n#### 42"}, "42"),
        ({"expected_answer": r"\frac{1}{2}"}, r"\frac{1}{2}"),
        ({}, None),
    ],
)
def test_the_reference_answer_is_found(fields: dict[str, Any], answer: str | None) -> None:
    row = {"question": "q", "completion": THOUGHT, **fields}
    assert reference_answer(trajectory_from_record(row)) == answer


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"steps": ["a"]}, "no question"),
        ({"question": "q"}, "no steps and no text"),
        ({"question": "q", "steps": []}, "'steps' is empty"),
        ({"messages": ["hello"]}, "a message of the chat is 'hello'"),
        ({"messages": [{"role": "user", "content": "q"}]}, "answer from an assistant"),
        ({"question": "q", "thinking": [1]}, "neither a string"),
        ({"question": "q", "completion": THOUGHT, "outcome": 7}, "outcome is 7"),
    ],
)
def test_a_record_that_is_not_a_trajectory_says_why(fields: dict[str, Any], complaint: str) -> None:
    (found,) = trajectories_of(fields)
    assert isinstance(found, InvalidTrajectoryError)
    assert complaint in str(found)


def trace(*steps: str, response: str = "The answer is 42.") -> Trajectory:
    return trajectory_from_record({"question": "q", "steps": list(steps), "response": response})


WORDS = "He counts the apples in the first basket and then those in the second basket."


@pytest.mark.parametrize(
    ("found", "settings", "reason"),
    [
        (trace(WORDS), {}, "length"),
        (trace("a", "b", "c"), {"max_steps": 2}, "length"),
        (trace("a", "b"), {"min_characters": 100}, "length"),
        (trace(WORDS, WORDS), {"max_characters": 100}, "length"),
        (trace(*[WORDS] * 10), {}, "repetition"),
        (trace(WORDS, "so " + "we go on and on, " * 80), {}, "repetition"),
        (
            trace("Er zählt die Äpfel im ersten Korb.", "Danach zählt er die im zweiten Korb."),
            {"languages": ("en",)},
            "language",
        ),
        (trace(WORDS, "Nobody knows.", response="I give up."), {}, "no answer"),
        (trace(WORDS, "b"), {"require_reference": True}, "no reference"),
    ],
)
def test_filters_name_their_reason(
    found: Trajectory, settings: dict[str, Any], reason: str
) -> None:
    dropped = reason_to_drop(found, FilterConfig(**settings))
    assert dropped is not None
    assert dropped[0] == reason
    if reason != "length":
        # With the filter switched off, it passes.
        off = {"max_repeated_share": None, "require_answer": False}
        assert reason_to_drop(found, FilterConfig(**off)) is None


def test_a_sound_trace_passes_all_filters() -> None:
    found = trace(WORDS, r"\( 40 + 2 = 42 \), which is what was asked for in the question.")
    assert reason_to_drop(found, FilterConfig(languages=("en",))) is None


def test_repetition_is_a_share_of_the_text() -> None:
    assert repeated_share("a sensible text\nof two lines") == 0.0
    assert repeated_share("x" * 1000) > 0.9
    assert 0.4 < repeated_share(f"{WORDS}\n{WORDS}") < 0.6
    assert repeated_share("") == 0.0


TEXT = " ".join(f"word{index}" for index in range(80))


def test_near_duplicates_name_the_earlier_text() -> None:
    with NearDuplicates(0.8) as texts:
        assert texts.add(TEXT, "line 1") is None
        assert texts.add(TEXT.upper() + "!", "line 2") == "line 1"
        assert texts.add(TEXT.replace("word79", "other"), "line 3") == "line 1"
        assert texts.add(TEXT[: len(TEXT) // 2], "line 4") is None
        assert texts.add("quite another text", "line 5") is None
        assert texts.add(TEXT, "line 6", kind="wrong") is None
        assert texts.add(TEXT, "line 7", kind="wrong") == "line 6"


def test_the_bands_find_similar_texts() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9):
        rows = rows_per_band(threshold, 64)
        assert 1 - (1 - threshold**rows) ** (64 // rows) >= 0.95


def test_contamination_is_by_question() -> None:
    words = "A farmer has 16 hens and sells 9 eggs a day at the market for 2 dollars each"
    known = EvaluationQuestions([words, "Why?"], max_shared=0.5)
    assert known.contains(words.upper() + "?") is not None
    assert known.contains(f"Question: {words}. How much does he earn?") is not None
    assert known.contains("why") is not None
    assert known.contains("Why not?") is None
    assert known.contains("A farmer has 12 cows and sells milk in town every single day") is None


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is {index} + 1, if {index} is what we had before the meal began?",
            "steps": [f"We had {index} before.", f"So it is {index} + 1 = {index + 1} (a{index})."],
            "response": f"The answer is {index + 1}, as computed from {index} and one more.",
        }
        for index in range(count)
    ]


def write_jsonl(path: Path, lines: list[Any]) -> str:
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_curation_keeps_order_and_reports_the_rest(tmp_path: Path) -> None:
    good = rows(5)
    source = write_jsonl(tmp_path / "in.jsonl", [*good, "not json", good[1], [1], {"steps": []}])
    held = write_jsonl(tmp_path / "eval.jsonl", [{"question": good[3]["question"]}])
    config = CurationConfig(evaluation_sets=(held,))
    report = curate([source], tmp_path / "out.jsonl", config)
    kept = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["question"] for row in kept] == [good[i]["question"] for i in (0, 1, 2, 4)]
    assert kept[0]["source"] == "in.jsonl"
    assert (report.num_read, report.num_kept) == (9, 4)
    assert report.num_dropped == {"unreadable": 3, "contamination": 1, "duplicate": 1}
    assert report.examples["duplicate"] == ["in.jsonl, line 7: like in.jsonl, line 2"]
    saved = json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert saved == report.as_dict()


def test_parquet_gives_the_same_as_jsonl(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows(600))
    pq.write_table(pa.Table.from_pylist(rows(600)), tmp_path / "in.parquet")
    found = [
        [record.trajectory.steps for record in read_records(name)]  # type: ignore[union-attr]
        for name in (source, str(tmp_path / "in.parquet"))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 600


def test_an_unreadable_evaluation_set_stops_curation(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows(2))
    bad = write_jsonl(tmp_path / "eval.jsonl", [{"theme": "?"}])
    config = CurationConfig(evaluation_sets=(bad,))
    with pytest.raises(TrainingError, match="cannot be kept out of training"):
        curate([source], tmp_path / "out.jsonl", config)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_row_without_generations_is_counted_and_reported(tmp_path: Path) -> None:
    empty = {"problem": "How many?", "generations": []}
    source = write_jsonl(tmp_path / "in.jsonl", [*rows(2), empty])
    report = curate([source], tmp_path / "out.jsonl", CurationConfig())
    assert (report.num_read, report.num_kept) == (3, 2)
    assert report.examples["unreadable"] == [
        "in.jsonl, line 3: its 'generations' is empty, so there is nothing to score"
    ]


def test_output_is_overwritten_only_on_request(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows(2))
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(TrainingError, match="--overwrite"):
        curate([source], tmp_path / "out.jsonl", CurationConfig())
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    curate([source], tmp_path / "out.jsonl", CurationConfig(), overwrite=True)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    for name in ("in.jsonl", "eval.jsonl", "new.jsonl.report.json"):
        write_jsonl(tmp_path / name, rows(2))
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    config = CurationConfig(evaluation_sets=(str(tmp_path / "eval.jsonl"),))
    for source, output in (
        ("in.jsonl", "in.jsonl"),
        ("in.jsonl", "eval.jsonl"),
        ("new.jsonl.report.json", "new.jsonl"),
    ):
        with pytest.raises(RfprmError, match="is the input itself"):
            curate([str(tmp_path / source)], tmp_path / output, config, overwrite=True)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        source = write_jsonl(tmp_path / f"{count}.jsonl", rows(count))
        tracemalloc.start()
        curate([source], tmp_path / f"out-{count}.jsonl", CurationConfig())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(50)  # imports and caches
    small, large = peak(100), peak(800)
    assert large < small + 200_000


def test_the_command_prints_what_was_dropped(tmp_path: Path) -> None:
    import typer

    from rfprm_training.data_commands import curate as command

    app = typer.Typer()
    app.command()(command)
    source = write_jsonl(tmp_path / "in.jsonl", [*rows(3), "broken"])
    config = tmp_path / "curation.toml"
    config.write_text("[filters]\nmin_steps = 2\n")
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(
        app, [source, "-o", str(out), "--config", str(config), "--not-in", source]
    )
    assert result.exit_code == 1  # its own questions as evaluation set: one line is broken
    good = write_jsonl(tmp_path / "good.jsonl", rows(1))
    result = CliRunner().invoke(
        app, [source, "-o", str(out), "--config", str(config), "--not-in", good]
    )
    assert result.exit_code == 0, result.output
    assert "4 read, 2 kept" in result.output
    assert "contamination" in result.output
    assert "unreadable" in result.output


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[filters]\nmin_stepps = 2\n")
    with pytest.raises(TrainingError, match=r"filters\.min_stepps"):
        read_curation_config(path)
