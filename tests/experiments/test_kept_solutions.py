"""Solutions of a model, kept small and joined with their questions again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import kept_solutions
from rfprm_training.gsm8k import read_model_solutions


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_kept_solutions_train_as_gsm8k_own_do(tmp_path: Path) -> None:
    asked = [f"Ann has {n} cats \u2013 and {n} dogs.  How many pets?" for n in (2, 3)]
    samples = [
        {
            "question": question,
            "completion": f"She has {n} + {n} = {total} pets\n#### {total}\n",
            "outcome": total == 2 * n,
        }
        for total in (4, 6)
        for n, question in zip((2, 3), asked, strict=True)
    ]
    pools = [_write(tmp_path / f"{i}.jsonl", samples[i::2]) for i in range(2)]
    gold = [
        {"question": question, "answer": f"{n} * 2 = <<{n}*2={2 * n}>>{2 * n}\n#### {2 * n}"}
        for n, question in zip((2, 3), asked, strict=True)
    ]
    gold_path = _write(tmp_path / "gold.jsonl", gold[::-1])
    kept, data = tmp_path / "kept.jsonl.gz", tmp_path / "data.jsonl"
    kept_solutions.main(["keep", *map(str, pools), "-o", str(kept)])
    assert b"Ann" not in kept_solutions.gzip.decompress(kept.read_bytes())
    before = kept.read_bytes()
    kept_solutions.main(["keep", *map(str, pools), "-o", str(kept)])
    assert kept.read_bytes() == before
    kept_solutions.main(["join", str(kept), "--gold", str(gold_path), "-o", str(data)])
    found = read_model_solutions(data)
    assert [trajectory.question for trajectory in found] == [asked[0]] * 2 + [asked[1]] * 2
    assert [trajectory.outcome for trajectory in found] == [1.0, 0.0, 0.0, 1.0]
    assert found[0].steps == ("She has 2 + 2 = 4 pets",)
    assert found[0].response == ("The answer is 4.",)
    assert found[0].metadata["reference"] == ("2 * 2 = 4",)
    rows = tmp_path / "rows.jsonl"
    some = ["--skip", "1", "--questions", "1", "-o", str(rows)]
    kept_solutions.main(["unpack", str(kept), "--gold", str(gold_path), *some])
    unpacked = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["question"] for row in unpacked] == [asked[1]] * 2
    assert [(row["outcome"], row["answer"]) for row in unpacked] == [(False, "6"), (True, "6")]
    assert unpacked[1]["completion"] == "She has 3 + 3 = 6 pets\n#### 6"
    others = str(_write(gold_path, gold[:1]))
    with pytest.raises(SystemExit, match="not in the gold solutions"):
        kept_solutions.main(["join", str(kept), "--gold", others, "-o", str(data)])
    assert read_model_solutions(data) == found


def test_thinking_is_kept_and_is_no_model_solution(tmp_path: Path) -> None:
    question = "How many pets are 2 cats and 2 dogs?"
    completion = "<think>\n2 + 2 = 4\n</think>\nThey are \\boxed{4}."
    drawn = {"style": "thinking", "temperature": 0.7, "sample": 3}
    ended = {"num_tokens": 21, "finish_reason": "stop"}
    pool = [{"question": question, "completion": completion, "outcome": True, **drawn, **ended}]
    gold = [{"question": question, "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}]
    paths = [_write(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((pool, gold))]
    kept, rows = tmp_path / "kept.jsonl.gz", tmp_path / "rows.jsonl"
    kept_solutions.main(["keep", str(paths[0]), "-o", str(kept)])
    options = [str(kept), "--gold", str(paths[1]), "-o", str(rows)]
    kept_solutions.main(["unpack", *options])
    assert json.loads(rows.read_text()) == {**pool[0], "answer": "4"}
    rows.unlink()
    with pytest.raises(SystemExit, match="unpack these solutions"):
        kept_solutions.main(["join", *options])
    assert not rows.exists()
