"""What each arm of the selection experiment takes, and what it concludes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import selection
from experiments.selection import Sample, choose, detectable, summarise


def _sample(question: str, number: int, outcome: bool | None, reward: float) -> Sample:
    return Sample(question, f"{question} {number}", 10 * number, outcome, reward)


POOL = [
    [_sample("a", 1, True, 0.2), _sample("a", 2, False, 0.9), _sample("a", 3, True, 0.1)],
    [_sample("b", 1, False, 0.4), _sample("b", 2, None, 0.3)],
]


def test_arms_take_what_they_are_named_for() -> None:
    def taken(arm: str, count: int = 12) -> set[str]:
        return {sample.completion for sample in choose(POOL, arm, count, seed=0)}

    assert taken("PRM") == {"a 2", "b 1"}
    assert taken("longest") == {"a 3", "b 2"}
    assert taken("verified") <= {"a 1", "a 3"}
    assert len(taken("verified")) == 1  # one trace of a question
    assert len(taken("random")) == 2
    assert len(taken("everything")) == 5
    assert {c for seed in range(20) for c in taken_random(seed)} == taken("everything")


def taken_random(seed: int) -> set[str]:
    return {sample.completion for sample in choose(POOL, "random", 2, seed)}


@pytest.mark.parametrize("arm", selection.ARMS)
def test_every_student_sees_as_many_traces(arm: str) -> None:
    for count in (1, 4, 7):
        seen = choose(POOL, arm, count, seed=3)
        assert len(seen) == count
        assert choose(POOL, arm, count, seed=3) == seen
    repeats = [seen.count(sample) for sample in set(choose(POOL, arm, 7, seed=3))]
    assert max(repeats) - min(repeats) <= 1


def test_arms_are_compared_on_the_same_problems() -> None:
    right = {
        "random": {"0": [True, False, False, False], "1": [False, False, False, False]},
        "PRM": {"0": [True, True, False, False], "1": [True, True, False, False]},
        "longest": {"0": [False, False, False, False]},  # a seed is missing
    }
    figures = {"traces": 2, "right": 0.5, "tokens": 20.0}
    found = summarise(right, dict.fromkeys(right, figures))
    assert found["random"]["accuracy"][0] == 0.125
    assert found["PRM"]["over_random"][0] == 0.375
    assert found["PRM"]["of_seeds"] == [0.5, 0.5]
    assert "over_random" not in found["random"]
    assert "over_random" not in found["longest"]


def test_more_problems_show_smaller_differences() -> None:
    assert detectable(0.2, 1000, 1) == pytest.approx(0.05, abs=0.001)
    assert detectable(0.2, 4000, 1) == pytest.approx(detectable(0.2, 1000, 1) / 2)
    assert detectable(0.2, 1000, 4) == pytest.approx(detectable(0.2, 1000, 1) / 2)


def test_finished_students_are_kept_and_others_are_not_mixed_in(
    tiny_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool, gold = tmp_path / "pool.jsonl", tmp_path / "gold.jsonl"
    rows = [
        {
            "question": f"What is {n} + {n}?",
            "completion": completion,
            "num_tokens": len(completion),
            "finish_reason": reason,
            "outcome": outcome,
        }
        for n in range(3)
        for completion, reason, outcome in (
            (f"{n} + {n} = {2 * n}\nIt is {2 * n}.", "stop", True),
            (f"{n} + {n} = {3 * n + 1}\nIt is {3 * n + 1}.", "stop", False),
            ("", "stop", False),
            ("and so on and so on", "length", False),
        )
    ]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = [(f"What is {n} + {n}?", f"{n} + {n} = {2 * n}\n#### {2 * n}") for n in range(8)]
    problems.append(("Long?", "1\n2\n3\n4\n#### 4"))
    gold.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in problems))
    trained: list[str] = []

    def train(samples: Any, folder: Path, seed: int) -> Path:
        assert {sample.num_tokens for sample in samples} <= {len(r["completion"]) for r in rows}
        assert all(sample.completion.startswith(tuple("012")) for sample in samples)
        trained.append(folder.name)
        return folder

    def answers(folder: Path, asked: Any, max_tokens: int) -> list[bool]:
        assert sorted(s.question for s in asked) == [f"What is {n} + {n}?" for n in range(3, 8)]
        return [folder.name.startswith("PRM")] * len(asked)

    monkeypatch.setattr(selection, "train", train)
    monkeypatch.setattr(selection, "answers", answers)
    options = [str(pool), "--gold", str(gold), "-o", str(tmp_path / "out"), "--seen", "4"]
    options += ["--artifact", str(tiny_artifact), "--arms", "random", "PRM", "--seeds", "0", "1"]
    selection.main(options)
    assert trained == ["random-0", "PRM-0", "random-1", "PRM-1"]
    assert "5 problems can show a difference" in capsys.readouterr().out
    selection.main(options)
    assert len(trained) == 4
    found = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert found["arms"]["PRM"]["over_random"] == [1.0, 1.0, 1.0]
    with pytest.raises(SystemExit, match="seen was 4, is 5"):
        selection.main([*options, "--seen", "5"])
