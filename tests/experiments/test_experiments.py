"""The experiments' problems, and a short run of a real trainer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.guided_search import of_middle_difficulty
from experiments.kept import check_made_alike
from experiments.puzzles import puzzles
from experiments.search_figures import best_of_n_curve
from rfprm_runtime.answers import answers_agree, final_answer
from rfprm_runtime.rewards.completions import CompletionReward


def test_the_curve_of_best_of_n_lies_between_its_ends() -> None:
    def trace(answer: str, reward: float) -> dict[str, Any]:
        return {"answer": answer, "right": answer == "4", "reward": reward, "num_tokens": 10}

    sure = [trace("4", 0.9), trace("4", 0.8), trace("5", 0.2), trace("4", 0.1)]
    fooled = [trace("7", 0.9), trace("7", 0.8), trace("4", 0.3), trace("4", 0.1)]
    curve = best_of_n_curve(
        [
            {
                "methods": {
                    "Best-of-N": {"traces": pool, "proposing_seconds": 7, "scoring_seconds": 1}
                }
            }
            for pool in (sure, fooled)
        ]
    )
    assert list(curve) == ["1", "4"]
    assert [curve[size]["tokens"] for size in curve] == [10, 40]
    assert [curve[size]["seconds"] for size in curve] == [2, 8]
    one, four = (curve[size]["accuracy"] for size in curve)
    assert one["reward"][0] == one["random"][0] == one["oracle"][0]
    assert 0.5 < one["random"][0] < 0.75
    assert four["reward"][0] == four["weighted vote"][0] == 0.5
    assert four["random"][0] == pytest.approx(0.625)
    assert four["oracle"][0] == 1
    gains = curve["4"]["over the majority vote"]
    assert gains["majority vote"] == [0, 0, 0]
    assert gains["oracle"][0] == pytest.approx(1 - four["majority vote"][0])
    assert 0.5 <= four["majority vote"][0] <= 1  # two votes each: the first drawn wins


def test_problems_of_middle_difficulty_have_right_and_wrong_samples(tmp_path: Path) -> None:
    outcomes = {"easy": (True, True), "mixed": (False, True), "hard": (False, None), "odd": (1, 0)}
    rows = [
        {"question": question, "answer": "4", "outcome": outcome}
        for sample in range(2)
        for question, of_one in outcomes.items()
        for outcome in of_one[sample : sample + 1]
    ]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [problem.question for problem in of_middle_difficulty(path, 9)] == ["mixed", "odd"]
    (first,) = of_middle_difficulty(path, 1)
    assert (first.question, first.answer) == ("mixed", "4")


def test_puzzles_are_right_and_different() -> None:
    trained = puzzles(100, seed=0)
    questions = {puzzle.question for puzzle in trained}
    assert len(questions) == 100
    for puzzle in trained:
        assert answers_agree(final_answer(puzzle.solution), puzzle.answer) is True
        first, *claims = puzzle.question.split(". ")
        is_truthful = {first.split()[0]: first.endswith("tells the truth")}
        assert len(puzzle.steps) == len(claims) + 1
        for claim, step in zip(claims[:-1], puzzle.steps[1:-1], strict=True):
            name, before = re.fullmatch(r"(\w+) says (\w+) .*", claim).groups()  # type: ignore[union-attr]
            is_truthful[name] = is_truthful[before] == claim.endswith("tells the truth")
            verdict = "tells the truth" if is_truthful[name] else "lies"
            assert step.endswith(f", {name} {verdict}.")
        assert claims[-1] == f"Does {name} tell the truth?"
        assert puzzle.answer == ("yes" if is_truthful[name] else "no")
    assert {puzzle.answer for puzzle in trained} == {"yes", "no"}
    assert puzzles(100, seed=0) == trained
    one = trained[0]
    assert one.is_right_throughout(f"{one.solution}\n")
    guessed = "\n".join([*one.steps[:-2], one.steps[-1]])
    assert not one.is_right_throughout(guessed)
    assert not one.is_right_throughout("")
    others = puzzles(100, seed=0, excluded=frozenset(questions))
    assert not questions & {puzzle.question for puzzle in others}


def test_arms_are_compared_seed_by_seed() -> None:
    pytest.importorskip("trl")
    from experiments.online import summarise

    def curve(*values: float, auc: float | None = 0.5) -> dict[str, Any]:
        by_step = {str(10 * i): value for i, value in enumerate(values)}
        half = {step: value / 2 for step, value in by_step.items()}
        return {"accuracy": by_step, "right_throughout": half, "auc": [auc, None]}

    runs = {
        "outcome": {"0": curve(0.2, 0.3, auc=None), "1": curve(0.2, 0.5)},
        "outcome + PRM": {"1": curve(0.2, 0.6), "0": curve(0.2, 0.2)},
    }
    found = summarise(runs)
    assert found["outcome"]["auc"] == [0.5, None]
    assert found["outcome"]["accuracy"] == {
        "steps": [0, 10],
        "mean": [0.2, 0.4],
        "lowest": [0.2, 0.3],
        "highest": [0.2, 0.5],
        "over_seeds": {},
    }
    over = found["outcome + PRM"]["accuracy"]["over_seeds"]
    assert over["0"]["outcome"] == [0.0, 0.0, 0.0]
    # Differences of 0.1 and −0.1; with two seeds t is 12.7 and the standard error 0.1.
    assert over["10"]["outcome"] == pytest.approx([0.0, -1.27062, 1.27062], abs=1e-5)


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own
@pytest.mark.parametrize("name", ["outcome", "outcome + dense PRM"])
def test_an_arm_trains_a_policy(
    name: str, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from experiments import online
    from tiny_models import byte_tokenizer

    processing = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(),
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        padding_side="left",
    )
    monkeypatch.setattr(online, "tokenizer", lambda: processing)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    policy = LlamaForCausalLM(
        LlamaConfig(**size, num_attention_heads=2, vocab_size=len(processing))
    )
    policy.save_pretrained(tmp_path / "policy")
    processing.save_pretrained(tmp_path / "policy")
    settings = "--steps 2 --every 2 --prompts 2 --generations 2 --max-tokens 6 --held-out 3"
    settings += " --first-layer 0"
    paths = ["-o", str(tmp_path), "--artifact", str(tiny_artifact)]
    paths += ["--policy", str(tmp_path / "policy")]
    options = online._options([*paths, *settings.split()])
    check_made_alike(tmp_path, online._made_from(options))
    for others in ("--seeds 7", "--arms outcome", "--keep"):
        others_too = online._options([*paths, *settings.split(), *others.split()])
        check_made_alike(tmp_path, online._made_from(others_too))
    more_steps = online._options([*paths, *settings.split(), "--steps", "3"])
    with pytest.raises(SystemExit, match="steps was 2, is 3"):
        check_made_alike(tmp_path, online._made_from(more_steps))
    found = online.run(online.ARMS[name], 0, options)
    assert found["accuracy"] == found["right_throughout"] == {"0": 0.0, "2": 0.0}
    assert len(found["reward"]) == len(found["seconds"]) == 2
    assert found["auc"] == [None]  # no answer is right, so there is nothing to tell apart


def test_a_process_reward_is_judged_within_questions_and_over_time() -> None:
    pytest.importorskip("trl")
    from experiments.online import known_by_prm

    def batch(*rows: tuple[float | None, float]) -> list[CompletionReward]:
        return [CompletionReward(outcome, process, outcome) for process, outcome in rows]

    # The second question is harder: over all completions the PRM would do worse.
    easy, hard = [(0.9, 1.0), (0.8, 0.0)], [(0.5, 1.0), (0.4, 0.0)]
    unknown: list[tuple[float | None, float]] = [(None, 1.0), (0.3, 0.0)]
    fooled = [(0.1, 1.0), (0.2, 0.0)]
    assert known_by_prm([batch(*easy, *hard), batch(*easy, *unknown)], 2, every=2) == [1.0]
    assert known_by_prm([batch(*easy), batch(*easy, *fooled)], 2, every=1) == [1.0, 0.5]
    assert known_by_prm([batch(*unknown)], 2, every=1) == [None]
    assert known_by_prm([batch((None, 1.0), (None, 0.0))], 2, every=1) == [None]
