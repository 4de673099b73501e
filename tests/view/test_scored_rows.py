from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import InvalidTrajectoryError, SourceError
from rfprm_runtime.cli.score_file import score_file
from rfprm_runtime.traces.sources import count_rows
from rfprm_runtime.view.scored_rows import (
    ScoredTrace,
    read_scored_rows,
    scored_trace,
)
from tiny_models import fake_scorer
from view.scored_files import row, write_rows


def _found(path: Path, **options: Any) -> list[ScoredTrace]:
    found = [scored.found for scored in read_scored_rows(path, **options)]
    assert all(isinstance(trace, ScoredTrace) for trace in found), found
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("split", ["blank_lines", "lines"])
@pytest.mark.parametrize("prefix", ["", "prm_"])
def test_the_output_of_score_is_read_back(tmp_path: Path, split: str, prefix: str) -> None:
    traces = write_rows(
        tmp_path / "in.jsonl",
        [
            {"question": "q", "completion": "<think>a\nb\n\nc</think>d\n\ne", "is_correct": False},
            {"question": "q", "steps": ["x", "y"], "response": ["z"], "source": "here", "id": 7},
        ],
    )
    output = tmp_path / "out.jsonl"
    with fake_scorer() as scorer:
        score_file(scorer, traces, output, split=split, prefix=prefix)  # type: ignore[arg-type]
    of_text, of_steps = _found(output, prefix=prefix)
    assert of_text.steps == (("a\nb", "c") if split == "blank_lines" else ("a", "b", "c"))
    assert of_text.response == ("d", "e")
    assert of_text.outcome is False
    written = json.loads(output.read_text(encoding="utf-8").splitlines()[1])
    assert of_steps.step_scores == written[prefix + "step_scores"]
    assert of_steps.reward == written[prefix + "reward"]
    assert (of_steps.source, of_steps.steps) == ("here", ("x", "y"))
    assert json.loads(of_steps.other_fields) == {"id": 7}


def test_every_format_of_traces_is_read() -> None:
    chat = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "c", "reasoning_content": "a\n\nb"},
        ],
        "step_scores": [0.1, 0.2],
        "reward": 0.15,
    }
    assert scored_trace(chat).steps == ("a", "b")
    several = {
        "question": "q",
        "generations": ["a", "b\n\nc"],
        "is_correct": [True, False],
        "generation": 1,
        "step_scores": [0.1, 0.2],  # as many as there are generations
        "reward": 0.15,
    }
    trace = scored_trace(several)
    assert trace.steps == ("b", "c")
    assert trace.step_scores == [0.1, 0.2]


def _selected(**fields: Any) -> dict[str, Any]:
    return {**fields, "reward": 7.5, "selection_score": 7.25, "rank": 3}


def test_rank_and_selection_score_come_only_from_rfprm_select() -> None:
    trace = scored_trace(_selected(question="q", steps=["a"], step_scores=[0.5], is_correct=True))
    assert (trace.rank, trace.selection_score, trace.reward) == (3, 7.25, 7.5)
    assert trace.other_fields == ""
    of_its_own = scored_trace(row(rank=3, selection_score="high"))
    assert (of_its_own.rank, of_its_own.selection_score) == (None, None)
    assert json.loads(of_its_own.other_fields) == {"rank": 3, "selection_score": "high"}


def test_a_row_is_read_as_it_was_scored() -> None:
    fields = {"question": "q", "thinking": "a\n\nb", "response": "c\n\nd"}
    scores = {"step_scores": [0.1, 0.2], "reward": 0.15}
    for scored in (fields | scores, _selected(**fields, **scores)):  # by rfprm score and select
        found = scored_trace(scored)
        assert (found.steps, found.response) == (("a", "b"), ("c", "d"))
        assert found.other_fields == ""


def test_only_the_chosen_generation_is_shown_with_its_own_fields() -> None:
    several = _selected(
        question="q",
        generations=["a", "b\n\nc"],
        is_correct=[True, False],
        seed=[7, 8],
        generation=1,
        step_scores=[0.1, 0.2],
        messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "b\n\nc"}],
    )
    trace = scored_trace(several)
    assert (trace.steps, trace.generation, trace.outcome) == (("b", "c"), 1, False)
    assert json.loads(trace.other_fields) == {"seed": 8}
    del several["generation"]
    with pytest.raises(InvalidTrajectoryError, match="'generation' is not the index of one"):
        scored_trace(several)


def test_a_chat_that_repeats_the_trace_is_not_shown() -> None:
    text = "<think>a\n\nb</think>c"
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": text}
    fields = _selected(
        messages=[question, answer],
        original_prompt="q",
        original_completion=text,
        step_scores=[0.1, 0.2],
    )
    trace = scored_trace({**fields, "id": 7})
    assert (trace.steps, trace.response) == (("a", "b"), ("c",))
    assert json.loads(trace.other_fields) == {"id": 7}
    longer = [{"role": "system", "content": "Think."}, question, answer]
    other = json.loads(scored_trace({**fields, "messages": longer}).other_fields)
    assert other["messages"] == longer


BAD_ROWS = {
    "not JSON": '{"question": ',
    "expected an object": "[1]",
    "no field 'step_scores'; score the file first": row(step_scores=None),
    "pass --prefix 'prm_'": {"question": "q", "steps": ["a"], "prm_step_scores": [1.0]},
    "expected a list": row(step_scores="0.5"),
    r"step_scores\[0\] is None": row(step_scores=[None, 0.5]),
    r"step_scores\[0\] is True": row(step_scores=[True, 0.5]),
    r"step_scores\[1\] is nan": row(step_scores=[0.5, float("nan")]),
    "1 step scores for 2 steps": row(step_scores=[0.5]),
    "reward is None": row(reward=None),
    "reward is inf": row(reward=float("inf")),
    "trajectory_score is 'high'": row(trajectory_score="high"),
    r"reward is 1000\d*\.\.\.\d*, expected a finite": row(reward=10**400),
    r"step_scores\[1\] is 1000\d*\.\.\.\d*, expected": row(step_scores=[0, 10**400]),
    "trajectory_score is None, expected .* there are no step scores": row(
        step_scores=[], trajectory_score=None
    ),
    "no question": {"steps": ["a"], "step_scores": [0.5], "reward": 0.5},
    "its .question. is blank": row(question=" "),
}


@pytest.mark.parametrize(("reason", "bad"), BAD_ROWS.items(), ids=BAD_ROWS)
def test_a_bad_row_has_its_number_and_reason_and_the_others_are_read(
    tmp_path: Path, reason: str, bad: Any
) -> None:
    line = bad if isinstance(bad, str) else json.dumps(bad)
    path = tmp_path / "scored.jsonl"
    good = json.dumps(row())
    path.write_text(f"{good}\n\n{line}\n{good}\n", encoding="utf-8")
    first, second, third = read_scored_rows(path)
    assert isinstance(first.found, ScoredTrace)
    assert isinstance(third.found, ScoredTrace)
    assert [row.record.place.number for row in (first, second, third)] == [1, 3, 4]
    assert isinstance(second.found, InvalidTrajectoryError)
    with pytest.raises(InvalidTrajectoryError, match=reason):
        raise second.found
    assert count_rows(str(path)) == 3


def test_scores_may_be_any_finite_numbers() -> None:
    trace = scored_trace(row(step_scores=[-3, 41.5], trajectory_score=-12.25, reward=-1e6))
    assert (trace.step_scores, trace.trajectory_score, trace.reward) == ([-3, 41.5], -12.25, -1e6)


@pytest.mark.parametrize("text", ["one\n\ntwo", "<think>a\nb</think>c", "just one"])
def test_a_trace_without_step_scores_is_read_with_its_trajectory_score(text: str) -> None:
    fields = {"question": "q", "text": text, "step_scores": [], "trajectory_score": -2.5}
    trace = scored_trace({**fields, "reward": -2.5})
    assert (trace.step_scores, trace.trajectory_score) == ([], -2.5)
    assert "".join(trace.steps + trace.response).replace("\n", "") in (
        "onetwo",
        "abc",
        "just one",
    )


def test_only_valid_outcomes_are_read() -> None:
    assert scored_trace(row(is_correct=True)).outcome is True
    assert scored_trace(row(outcome=0.25)).outcome == 0.25
    assert scored_trace(row(correct="yes")).outcome is None


def test_parquet_is_read_like_jsonl(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra select")
    from pyarrow import parquet

    rows = [row(id=1, is_correct=True, response=None), row(3, response=["so 4"])]
    path = tmp_path / "scored.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    [first, second] = _found(path)
    assert first == scored_trace(rows[0])
    assert second.response == ("so 4",)
    assert count_rows(str(path)) == 2


def test_a_file_that_is_missing_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        list(read_scored_rows(tmp_path / "none.jsonl"))
    other = tmp_path / "scores.xlsx"
    other.touch()
    with pytest.raises(SourceError, match=r"expected \.jsonl"):
        list(read_scored_rows(other))
