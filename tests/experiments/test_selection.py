"""What each arm of the selection experiment takes, and what it concludes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import selection
from experiments.choices import ARMS, Sample, arms_of, choose, described, read_pool
from experiments.puzzles import held_out_puzzles, training_puzzles
from experiments.selection import detectable, summarise
from experiments.students import Test as StudentTest
from experiments.students import of_puzzles, read_references


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
    assert taken("PRM of all") == {"a 2", "b 1"}
    assert taken("verified, PRM") == {"a 1"}
    unequal = [
        [_sample("a", 1, True, 0.9), _sample("a", 2, True, 0.8)],
        [_sample("b", 1, True, 0.1)],
    ]
    assert {s.completion for s in choose(unequal, "PRM of all", 9, seed=0)} == {"a 1", "a 2"}
    assert {c for seed in range(20) for c in taken_random(seed)} == taken("everything")


def taken_random(seed: int) -> set[str]:
    return {sample.completion for sample in choose(POOL, "random", 2, seed)}


def test_an_arm_that_finds_nothing_is_left_out_or_refused() -> None:
    assert arms_of(POOL) == [arm for arm in ARMS if arm != "right throughout"]
    assert arms_of([[_sample("b", 1, False, 0.4)]])[-2:] == ["PRM of all", "everything"]
    with pytest.raises(SystemExit, match="no trace for the arm 'right throughout'"):
        choose(POOL, "right throughout", 3, seed=0)


def test_a_right_answer_on_wrong_lines_is_told_from_a_right_solution() -> None:
    lucky = Sample("a", "lucky", 10, True, 0.9, right_throughout=False)
    right = Sample("a", "right", 10, True, 0.5, right_throughout=True)
    wrong = Sample("b", "wrong", 10, False, 0.1, right_throughout=False)
    pool = [[lucky, right], [wrong]]
    assert set(choose(pool, "right throughout", 2, seed=0)) == {right}
    assert set(choose(pool, "verified, PRM", 2, seed=0)) == {lucky}
    assert described([lucky, right, right, wrong])["chosen_right_throughout"] == pytest.approx(
        1 / 3
    )
    assert "chosen_right_throughout" not in described(POOL[0])


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "right throughout"])
def test_every_student_sees_as_many_traces(arm: str) -> None:
    for count in (1, 4, 7):
        seen = choose(POOL, arm, count, seed=3)
        assert len(seen) == count
        assert choose(POOL, arm, count, seed=3) == seen
    repeats = [seen.count(sample) for sample in set(choose(POOL, arm, 7, seed=3))]
    assert max(repeats) - min(repeats) <= 1


def test_arms_are_compared_on_the_same_problems() -> None:
    def student(*right: int, logprob: float = -1.0) -> dict[str, list[float]]:
        return {"accuracy": [*map(float, right)], "reference_logprob": [logprob] * len(right)}

    of_students = {
        "random": {"0": student(1, 0, 0, 0), "1": student(0, 0, 0, 0, logprob=-2.0)},
        "PRM": {"0": student(1, 1, 0, 0), "1": student(1, 1, 0, 0)},
        "longest": {"0": student(0, 0, 0, 0)},  # a seed is missing
    }
    figures = {"traces": 2, "right": 0.5, "tokens": 20.0}
    found = summarise(of_students, dict.fromkeys(of_students, figures))
    assert found["random"]["accuracy"][0] == 0.125
    assert found["PRM"]["accuracy_over_random"][0] == 0.375
    assert found["PRM"]["reference_logprob_over_random"] == [0.5, 0.5, 0.5]
    assert found["PRM"]["of_seeds"] == {"accuracy": [0.5, 0.5], "reference_logprob": [-1.0, -1.0]}
    assert "accuracy_over_random" not in found["random"]
    assert "accuracy_over_random" not in found["longest"]
    over = found["PRM"]["over_seeds"]
    assert over["accuracy"]["random"] == pytest.approx([0.375, -1.2133, 1.9633], abs=1e-4)
    assert over["reference_logprob"]["random"][0] == 0.5
    assert found["longest"]["over_seeds"]["accuracy"] == {"random": [-0.25], "PRM": [-0.5]}
    assert "over_seeds" not in found["random"]


def test_more_problems_show_smaller_differences() -> None:
    assert detectable(0.2, 1000, 1) == pytest.approx(0.05, abs=0.001)
    assert detectable(0.2, 4000, 1) == pytest.approx(detectable(0.2, 1000, 1) / 2)
    assert detectable(0.2, 1000, 4) == pytest.approx(detectable(0.2, 1000, 1) / 2)


def test_finished_students_are_kept_and_others_are_not_mixed_in(
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
            "reward": 0.1 * len(completion),
        }
        for n in range(3)
        for completion, reason, outcome in (
            (f"{n} + {n} = {2 * n}\nIt is {2 * n}.", "stop", True),
            (f"{n} + {n} = {3 * n + 1}\nIt is {3 * n + 1}.", "stop", False),
            ("and so on and so on", "length", False),
        )
    ]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = [(f"What is {n} + {n}?", f"{n} + {n} = {2 * n}\n#### {2 * n}") for n in range(8)]
    problems.append(("Long?", "1\n2\n3\n4\n#### 4"))
    gold.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in problems))
    trained: list[str] = []

    def train(samples: Any, folder: Path, seed: int, first_layer: int) -> Path:
        assert {sample.num_tokens for sample in samples} <= {len(r["completion"]) for r in rows}
        assert all(sample.completion.startswith(tuple("012")) for sample in samples)
        trained.append(folder.name)
        return folder

    def measure(folder: Path, test: StudentTest) -> dict[str, list[float]]:
        asked, known = test.problems, test.references
        solved = {n: f"{n} + {n} = {2 * n}\nThe answer is {2 * n}.\n" for n in range(3, 8)}
        assert sorted(known) == [(f"What is {n} + {n}?", [solved[n]]) for n in range(3, 8)]
        assert sorted(s.question for s in asked) == [f"What is {n} + {n}?" for n in range(3, 8)]
        right = float(folder.name.startswith("PRM"))
        return {"accuracy": [right] * len(asked), "reference_logprob": [-1.0] * len(asked)}

    monkeypatch.setattr(selection, "train", train)
    monkeypatch.setattr(selection, "measure", measure)
    options = [str(pool), "--gold", str(gold), "-o", str(tmp_path / "out"), "--seen", "4"]
    options += ["--arms", "random", "PRM", "--seeds", "0", "1"]
    selection.main(options)
    assert trained == ["random-0", "PRM-0", "random-1", "PRM-1"]
    assert "5 problems can show a difference" in capsys.readouterr().out
    selection.main(options)
    assert len(trained) == 4
    found = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert found["arms"]["PRM"]["accuracy_over_random"] == [1.0, 1.0, 1.0]
    with pytest.raises(SystemExit, match="seen was 4, is 5"):
        selection.main([*options, "--seen", "5"])
    pool.write_text(json.dumps({**rows[0], "reward": 1.0}) + "\n" + json.dumps({"question": "?"}))
    with pytest.raises(SystemExit, match="tokens, outcome, reward; give solutions as rfprm solve"):
        selection.main([*options[:-1], "7", "-o", str(tmp_path / "other")])
    of_two = [str(pool), "--puzzles", "--references", str(pool), "-o", str(tmp_path / "new")]
    with pytest.raises(SystemExit, match="puzzles have right solutions of their own"):
        selection.main(of_two)
    assert not (tmp_path / "new").exists()


def test_students_of_puzzles_are_asked_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool.jsonl"
    rows = [
        {
            "question": puzzle.question,
            "completion": puzzle.solution,
            "num_tokens": 90,
            "finish_reason": "stop",
            "outcome": True,
            "right_throughout": number < 2,
            "reward": 0.5,
        }
        for number, puzzle in enumerate(training_puzzles(4, 2))
    ]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert arms_of(read_pool(pool)) == list(ARMS)

    def measure(folder: Path, test: StudentTest) -> dict[str, list[float]]:
        assert test == of_puzzles(held_out_puzzles(6), 130)
        assert {p.question for p in test.problems}.isdisjoint(row["question"] for row in rows)
        return {"accuracy": [1.0] * 6, "right_throughout": [0.0] * 6, "reference_logprob": [-1.0]}

    monkeypatch.setattr(selection, "train", lambda samples, folder, seed, first_layer: folder)
    monkeypatch.setattr(selection, "measure", measure)
    options = [str(pool), "--puzzles", "--problems", "6", "--seen", "2", "-o", str(tmp_path)]
    selection.main([*options, "--max-tokens", "130", "--seeds", "0", "--name", "puzzles"])
    found = json.loads((tmp_path / "puzzles.json").read_text())["arms"]
    assert found["right throughout"]["right_throughout"] == [0.0, 0.0, 0.0]
    assert found["PRM"]["accuracy_over_random"] == [0.0, 0.0, 0.0]


def test_references_are_right_traces_to_other_questions(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    rows = [
        {"question": question, "completion": completion, "outcome": outcome}
        for question, completion, outcome in (
            ("a", "in the pool", True),
            ("c", "right", True),
            ("c", "wrong", False),
            ("d", "unknown", None),
            ("c", "right, too", True),
        )
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_references(path, POOL) == [("c", ["right\n", "right, too\n"])]
    path.write_text(json.dumps(rows[0]))
    with pytest.raises(SystemExit, match="no right trace to a question that is not in the pool"):
        read_references(path, POOL)


def test_right_solutions_have_the_log_probabilities_that_transformers_gives() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from experiments.reference_logprob import reference_logprobs
    from experiments.small_policy import question_text
    from tiny_models import byte_tokenizer

    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=48, **shape)
    model: Any = LlamaForCausalLM(config).eval()
    make: Any = PreTrainedTokenizerFast
    processing = make(tokenizer_object=byte_tokenizer(()))
    references = [
        (f"What is {n} + {n}?", [f"{n} + {i}\n" * n for i in range(n)]) for n in (1, 3, 20)
    ]
    found = reference_logprobs(model, processing, references)
    for (question, solutions), mean in zip(references, found, strict=True):
        prompt = processing(question_text(question)).input_ids
        losses = []
        for solution in solutions:
            whole = torch.tensor([prompt + processing(solution).input_ids])
            labels = whole.clone()
            labels[:, : len(prompt)] = -100
            losses.append(model(input_ids=whole, labels=labels).loss.item())
        assert mean == pytest.approx(-sum(losses) / len(losses), abs=1e-4)
