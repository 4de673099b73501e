from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfprm_runtime import InvalidArgumentError, Reranker, RfprmError
from rfprm_runtime.cli.rerank_file import rerank_file
from run_rfprm import rfprm
from tiny_models import fake_scorer


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


TEXTS = [f"We add {i} and {i}.\n\nThe answer is {i + i}." for i in range(4)]
LISTED = [
    {"problem": "first?", "responses": TEXTS[:3], "answer": "2", "id": 1},
    {"problem": "second?", "responses": TEXTS[2:], "answer": "9", "id": 2},
]
APART = [
    {"problem": row["problem"], "response": text, "answer": row["answer"], "id": row["id"]}
    for row, text in [(row, text) for row in LISTED for text in row["responses"]]
]


def _ranked(path: Path) -> list[tuple[Any, ...]]:
    names = ("problem", "final_answer", "selection_score", "rank", "reward", "id")
    return [tuple(row[name] for name in names) for row in _rows(path)]


def test_candidates_in_one_row_and_in_several_are_ranked_as_the_reranker_does(
    tmp_path: Path,
) -> None:
    # Those of a question need not stand together, and white space makes no other question.
    apart = [APART[0], APART[3], {**APART[1], "problem": " first?\n"}, APART[4], APART[2]]
    with fake_scorer() as scorer:
        for name, rows in (("listed", LISTED), ("apart", apart)):
            source = _write(tmp_path / f"{name}.jsonl", rows)
            summary = rerank_file(scorer, source, tmp_path / f"{name}.out.jsonl")
            assert (summary.num_questions, summary.file.num_scored) == (2, 5)
        rankings = Reranker(scorer).rank_many(
            ["first?", "second?"], [row["responses"] for row in LISTED]
        )
    expected = [
        (ranking.question, item.answer, item.value, item.rank, item.value, number)
        for number, ranking in enumerate(rankings, start=1)
        for item in ranking
    ]
    assert _ranked(tmp_path / "listed.out.jsonl") == expected
    spelled = [(q.strip(), *rest) for q, *rest in _ranked(tmp_path / "apart.out.jsonl")]
    assert spelled == expected
    assert [row["generation"] for row in _rows(tmp_path / "listed.out.jsonl")] == [
        item.index for ranking in rankings for item in ranking
    ]
    assert all("votes" not in row for row in _rows(tmp_path / "listed.out.jsonl"))


def test_a_vote_puts_the_most_frequent_answer_first_and_tells_its_weight(tmp_path: Path) -> None:
    texts = ["The answer is 3.", "The answer is 5.", "So it is $3.0$."]
    source = _write(tmp_path / "in.jsonl", [{"question": "q?", "generations": texts}])
    with fake_scorer() as scorer:
        rerank_file(scorer, source, tmp_path / "out.jsonl", method="majority_vote", top=2)
    rows = _rows(tmp_path / "out.jsonl")
    assert [(row["votes"], row["rank"]) for row in rows] == [(2.0, 1), (2.0, 2)]
    assert {row["generation"] for row in rows} == {0, 2}


def test_the_share_of_right_picks_is_told_where_rows_know_the_answer(tmp_path: Path) -> None:
    known = {"question": "by its outcome?", "steps": ["a"], "outcome": True}
    unknown = {"question": "nobody knows?", "steps": ["a"]}
    source = _write(tmp_path / "in.jsonl", [*LISTED, known, unknown])
    with fake_scorer() as scorer:
        summary = rerank_file(scorer, source, tmp_path / "out.jsonl")
    shares, [best, *_] = summary.shares, _rows(tmp_path / "out.jsonl")
    assert shares.num_questions == 3
    assert shares.at_random == pytest.approx(1 / 3 + 0 + 1)
    assert shares.any == 2
    assert shares.first == 1 + (best["final_answer"] == "2")
    assert "of 3 questions with a known answer" in shares.sentences()[0]


def test_what_cannot_be_ranked_is_listed_and_the_rest_written(tmp_path: Path) -> None:
    rows = [LISTED[0], {"question": "no trace"}, {**APART[3], "rank": 1}, APART[4]]
    source = _write(tmp_path / "in.jsonl", [*rows, {"question": "long?", "steps": ["x" * 900]}])
    with fake_scorer() as scorer:
        summary = rerank_file(scorer, source, tmp_path / "out.jsonl")
    errors = {row["line"]: row["error"] for row in _rows(summary.file.errors_path)}
    assert sorted(errors) == [2, 3, 5]
    assert "already has the field 'rank'; choose a --prefix" in errors[3]
    assert "positions" in errors[5]
    assert [row["id"] for row in _rows(tmp_path / "out.jsonl")] == [1, 1, 1, 2]


def test_settings_that_cannot_be_used_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    source, output = _write(tmp_path / "in.jsonl", LISTED), tmp_path / "out.jsonl"
    with fake_scorer() as scorer:
        for wrong in ({"top": 0}, {"limit": 0}, {"method": "best"}, {"score": "worst"}):
            with pytest.raises(InvalidArgumentError):
                rerank_file(scorer, source, output, **wrong)  # type: ignore[arg-type]
        with pytest.raises(RfprmError, match="rfprm rerank writes JSONL"):
            rerank_file(scorer, source, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_command_keeps_the_best_of_each_question(tiny_artifact: Path, tmp_path: Path) -> None:
    source, output = _write(tmp_path / "in.jsonl", LISTED), tmp_path / "out.jsonl"
    arguments = ("rerank", source, "-o", output, "-a", tiny_artifact, "--top", 1)
    done = rfprm(*arguments)
    assert done.returncode == 0, done.stderr
    assert "read question from 'problem', text from 'responses'" in done.stderr
    assert f"2 questions, 5 candidates → {output}" in done.stderr
    assert "of 2 questions with a known answer" in done.stderr
    assert [row["rank"] for row in _rows(output)] == [1, 1]
    assert "use --overwrite" in rfprm(*arguments).stderr
    assert rfprm(*arguments, "--overwrite", "--quiet").stderr == ""
