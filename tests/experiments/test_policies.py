"""What is built on the sampler: policies, whole solutions, greedy answers, guided search."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")  # beside the policy that needs it

from experiments import answers_alone, greedy, guided_search, puzzle_policy, sample_solutions
from experiments.merged_policy import merged
from experiments.policies import FINE_TUNED, TorchPolicy
from experiments.puzzles import puzzles
from experiments.search_figures import best_of_n_curve, plot, summarise
from experiments.small_policy import question_text
from experiments.torch_sampling import Sampled
from rfprm_export.base_model import BaseModel
from rfprm_runtime import Scorer, Trajectory
from rfprm_runtime.search import Budget, Request
from rfprm_training.gsm8k import GoldSolution
from tiny_policies import policy_model


def test_a_policy_proposes_lines() -> None:
    _, base = policy_model("Qwen2", vocab_size=300)
    policy = TorchPolicy(base, device="cpu", dtype=torch.float32, max_step_tokens=40)
    requests = [
        Request(question="What is 1 + 1?", steps=(), count=3),
        Request(question="What is 1 + 1?", steps=("1 + 1 = 2",), count=2),
    ]
    found = policy(requests)
    assert [len(of_request) for of_request in found] == [3, 2]
    for proposal in (one for of_request in found for one in of_request):
        assert "\n" not in proposal.text
        assert 1 <= proposal.num_tokens <= 40
        assert proposal.finished or proposal.text
    again = TorchPolicy(base, device="cpu", dtype=torch.float32, max_step_tokens=40)(requests)
    assert again == found


def test_a_policy_draws_whole_solutions() -> None:
    _, base = policy_model("Qwen2", vocab_size=300)
    policy = TorchPolicy(base, device="cpu", dtype=torch.float32, max_tokens=30)
    found = policy.solutions(["What is 1 + 1?", "What is 2 + 2?"], 3)
    assert [len(of_question) for of_question in found] == [3, 3]
    for solution in (one for of_question in found for one in of_question):
        assert 1 <= solution.num_tokens <= 30
        assert all(step.strip() == step != "" for step in solution.steps)
    # What follows the boxed answer was generated, but is no step.
    text = "1 + 1 = 2\n\n  The answer is \\boxed{2}.\nIt is so.<|im_end|>"
    ids = base.tokenizer.encode(text, add_special_tokens=False).ids
    solution = policy._solution(Sampled(ids, -1.0, True))
    assert solution.steps == ("1 + 1 = 2", "The answer is \\boxed{2}.")
    assert solution.num_tokens == len(ids)


def test_a_fine_tuned_policy_is_asked_as_it_was_trained() -> None:
    _, base = policy_model("Llama", vocab_size=300)
    policy = TorchPolicy(
        base, FINE_TUNED, device="cpu", dtype=torch.float32, temperature=0, max_tokens=20
    )
    asked = [GoldSolution(f"What is {n} + {n}?", (), str(2 * n)) for n in range(6)]
    greedy_lines = [
        [line.strip() for line in text.splitlines() if line.strip()]
        for text in greedy.greedy_answers(base, asked, 20, dtype=torch.float32)
    ]
    drawn = policy.solutions([problem.question for problem in asked], 1)
    assert [list(one.steps) for (one,) in drawn] == greedy_lines
    assert FINE_TUNED.prompt_for("What is 1 + 1?", ("1 + 1 = 2",)) == (
        question_text("What is 1 + 1?") + "1 + 1 = 2\n"
    )
    # It invents another question after its answer.
    text = "1 + 1 = 2\nThe answer is 2.\nQuestion: What is 2 + 2?"
    ids = base.tokenizer.encode(text, add_special_tokens=False).ids
    assert policy._solution(Sampled(ids, -1.0, True)).steps == ("1 + 1 = 2", "The answer is 2.")
    (solution,) = (puzzle.steps for puzzle in puzzles(1, seed=3, people=(6, 6)))
    assert [FINE_TUNED.is_final(step) for step in solution] == [False] * 6 + [True]


def _written_by_transformers(model: Any, base: BaseModel, questions: list[str]) -> list[str]:
    """20 tokens at most after each prompt, one at a time."""
    found = []
    for question in questions:
        ids = base.tokenizer.encode(question_text(question), add_special_tokens=False).ids
        written = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            pad_token_id=base.tokenizer.token_to_id("<|endoftext|>"),
            eos_token_id=base.tokenizer.token_to_id("<|im_end|>"),
        )
        found.append(base.tokenizer.decode(written[0, len(ids) :].tolist()))
    return found


def test_answers_written_together_are_those_of_transformers() -> None:
    model, base = policy_model("Llama", vocab_size=300)
    asked = [GoldSolution(f"What is {n} + {n}{'?' * n}", (), str(2 * n)) for n in range(30)]
    written = greedy.greedy_answers(base, asked, 20, dtype=torch.float32)
    assert written == _written_by_transformers(model, base, [one.question for one in asked])
    assert len(set(written)) > 1


def test_a_policy_answers_puzzles() -> None:
    _, base = policy_model("Llama", vocab_size=300)
    asked = puzzles(3, seed=5)
    rows = puzzle_policy.answered(base, asked, samples=2, max_tokens=12)
    assert [row["question"] for row in rows] == [
        puzzle.question for puzzle in asked for _ in range(2)
    ]
    assert [row["outcome"] for row in rows] == [False] * 6
    assert len({row["completion"] for row in rows}) > 3
    assert all(row["num_tokens"] <= 12 for row in rows)
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert rows == puzzle_policy.answered(base, asked, samples=2, max_tokens=12)
    assert rows != puzzle_policy.answered(base, asked, samples=2, max_tokens=12, seed=1)


def test_an_adapter_is_merged_into_a_copy() -> None:
    peft = pytest.importorskip("peft")
    model, base = policy_model("Llama", vocab_size=300, tied=True)
    before = {name: base.weights[name].copy() for name in base.weights}
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    adapted = peft.get_peft_model(model, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    asked = [GoldSolution(f"What is {n} + {n}?", (), str(2 * n)) for n in range(8)]
    written = greedy.greedy_answers(merged(base, adapted), asked, 20, dtype=torch.float32)
    questions = [one.question for one in asked]
    assert written == _written_by_transformers(adapted.eval(), base, questions)
    with adapted.disable_adapter():
        assert written != _written_by_transformers(adapted, base, questions)
    assert all((base.weights[name] == before[name]).all() for name in before)


def test_independent_solutions_are_scored_as_traces(tiny_artifact: Path, tmp_path: Path) -> None:
    _, base = policy_model("Qwen2", vocab_size=300)
    asked = [GoldSolution(f"What is {n} + {n}?", (), str(2 * n)) for n in range(5)]

    def policy() -> TorchPolicy:
        return TorchPolicy(
            base, device="cpu", dtype=torch.float32, max_step_tokens=8, max_tokens=24
        )

    with Scorer.load(tiny_artifact) as scorer:
        budget = Budget(max_depth=2, max_tokens=60)
        searches = ("beam search, by reward",)

        def run(name: str, searches: Sequence[str], **settings: Any) -> list[dict[str, Any]]:
            return guided_search.run(
                scorer,
                policy(),
                asked,
                tmp_path / name,
                {"of": "a test", **settings},
                budget,
                num_traces=4,
                searches=searches,
                at_once=2,
            )

        rows = run("searches", searches)
        with_another = run("searches", (*searches, "diverse trees"))
        for before, after in zip(rows, with_another, strict=True):
            assert list(after["methods"]) == ["Best-of-N", *searches, "diverse trees"]
            assert after["methods"].items() >= before["methods"].items()
        with pytest.raises(SystemExit, match="depth"):
            run("searches", searches, depth=3)
        assert [row["question"] for row in rows] == [problem.question for problem in asked]
        drawn = policy().solutions([problem.question for problem in asked[:2]], 4)
        for row, of_question in zip(rows, drawn, strict=False):
            assert list(row["methods"]) == ["Best-of-N", *searches]
            independent = row["methods"]["Best-of-N"]
            assert independent["num_tokens"] == sum(one.num_tokens for one in of_question)
            scored = scorer.score_batch(
                [
                    Trajectory(question=row["question"], steps=one.steps)
                    for one in of_question
                    if one.steps
                ]
            )
            assert [trace["reward"] for trace in independent["traces"]] == [
                score.reward for score in scored
            ]
    found = summarise(rows)
    assert list(found) == ["Best-of-N", *searches]
    assert found["Best-of-N"]["proposing"] > 0 < found["Best-of-N"]["scoring"]
    assert "difference" in found[searches[0]]
    plot({"curve": best_of_n_curve(rows), "methods": found}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_sampled_solutions_are_those_of_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base = policy_model("Qwen2", vocab_size=300)
    gold = tmp_path / "gold.jsonl"
    answers = [f"{n} + 1 = {n + 1}\nIt is {n + 1}\nSo it is.\n#### {n + 1}" for n in range(9)]
    rows = [{"question": f"{n} + 1?", "answer": answer} for n, answer in enumerate(answers)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sample_solutions, "read_base_model", lambda path: base)

    def run(name: str) -> list[dict[str, Any]]:
        options = f"{gold} -o {tmp_path / name} --model {gold} --questions 5 --device cpu"
        styles = "--styles concise:0.8:2 gold:1.0:1 --max-tokens 12 --rows 4 --at-once 2"
        monkeypatch.setattr(sys, "argv", ["sample_solutions", *f"{options} {styles}".split()])
        sample_solutions.main()
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    whole = run("whole.jsonl")
    assert len(whole) == 15
    assert [row["sample"] for row in whole] == [0, 1, 2] * 5
    assert len({row["question"] for row in whole}) == 5
    for row in whole:
        assert row["outcome"] in (True, False)
        assert row["answer"] == str(int(row["question"].split()[0]) + 1)
    written = 0
    write = sample_solutions.ResumableLines.write

    def stopping(self: Any, line: str) -> None:
        nonlocal written
        if written == 8:
            raise KeyboardInterrupt
        written += 1
        write(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(sample_solutions.ResumableLines, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            run("stopped.jsonl")
    assert run("stopped.jsonl") == whole


def test_a_style_that_thinks_opens_its_answers() -> None:
    thinking = sample_solutions.prompts_of([])["thinking"]
    assert thinking.text("What is 4 + 4?").endswith("<|im_start|>assistant\n<think>\n")
    for _, answer in thinking.examples:
        assert answer.startswith(thinking.opening)
        assert answer.count("</think>\n") == answer.count("\\boxed{") == 1


def test_examples_of_a_style_are_other_questions() -> None:
    shots = [GoldSolution("What is 2 + 3?", ("2 + 3 = <<2+3=5>>5",), "5")]
    prompts = sample_solutions.prompts_of(shots)
    text = prompts["gold"].text("What is 4 + 4?")
    assert "2 + 3 = 5\n#### 5" in text
    assert text.endswith("<|im_start|>user\nWhat is 4 + 4?<|im_end|>\n<|im_start|>assistant\n")


def test_some_samples_lose_their_thinking(tmp_path: Path) -> None:
    rows = [
        {"sample": 0, "completion": "<think>\n1 + 1 = 2\n</think>\nIt is 2."},
        {"sample": 1, "completion": "<think>\n1 + 1 = 2\n</think>\nIt is 2.\nSo 2."},
        {"sample": 0, "completion": "<think>\n1 + 1 = 3\n</think>\n"},
        {"sample": 1, "completion": "<think>\n1 + 1 = 3\n</think>\n"},
        {"sample": 1, "completion": "It is 2.", "answer": "2"},
    ]
    given, written = tmp_path / "pool.jsonl", tmp_path / "traces.jsonl"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers_alone.main([str(given), "-o", str(written), "--samples", "1"])
    found = [json.loads(line) for line in written.read_text().splitlines()]
    shortened = {"sample": 1, "completion": "It is 2.\nSo 2."}
    assert found == [rows[0], shortened, rows[2], rows[4]]
