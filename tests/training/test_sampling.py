from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rfprm_export.named_base import FolderBase
from rfprm_training import TrainingError
from rfprm_training.construction.sampling.line_sampler import LineSampler, causal_lm
from rfprm_training.construction.sampling.next_steps import (
    NextSteps,
    SamplingConfig,
    draw_beginnings,
    graded_examples,
    read_next_steps,
    sample_file,
)
from rfprm_training.gsm8k import GoldSolution, read_gold_solutions
from rfprm_training.labelling.verifier import grade_next_step
from rfprm_training.learning.config import DataConfig
from rfprm_training.learning.dataset import build_examples
from tiny_models import byte_tokenizer

GRADES = {
    "So 36 - 6 = 30 are left.": 1.0,
    "Then 36 + 6 = 42 are there.": math.nan,  # 12 fewer lead back to 30
    "She earns 36 * 17 = $612.": 0.0,
    "She has 36 - 6 = 29 now.": 0.0,
    "She has 3*12=36 pencils.": math.nan,
    "Let me think.": math.nan,
}


@pytest.mark.parametrize(("step", "expected"), GRADES.items())
def test_a_next_step_is_graded_against_the_solution(
    pencils: GoldSolution, step: str, expected: float
) -> None:
    grade = grade_next_step(
        pencils.question,
        step,
        before=["Mia has 3*12=36 pencils."],
        references=[["Mia has 3*12=36 pencils.", "Then 36-6=30.", "She gets 30*2=$60."]],
    )
    assert repr(grade.grade) == repr(expected), grade.reason


def test_graded_steps_end_their_trajectories(pencils: GoldSolution) -> None:
    row = NextSteps(pencils.question, ("Mia has 3*12=36 pencils.",), (*GRADES, *GRADES))
    found = list(graded_examples(row, pencils, "g"))
    assert [e.step_labels for e in found] == [(1.0, 1.0), (1.0, 0.0), (1.0, 0.0)]
    assert all(math.isnan(e.trajectory_label) and e.group == "g" for e in found)
    assert found[0].trajectory.steps == (*row.steps, "So 36 - 6 = 30 are left.")


def config_of(tiny_base: Path, **changes: object) -> SamplingConfig:
    base = FolderBase(path=str(tiny_base))
    fields = {"num_questions": 5, "num_demonstrations": 2, "batch_size": 4, **changes}
    return SamplingConfig(base=base, **fields)


def counting(calls: list[int]) -> Callable[[str], Callable[[Sequence[str], int], list[list[str]]]]:
    """A sampler whose steps differ by text and seed."""

    def open_sampler(preamble: str) -> Callable[[Sequence[str], int], list[list[str]]]:
        def sample(texts: Sequence[str], seed: int) -> list[list[str]]:
            if len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(seed)
            return [[f"{seed} {len(text)}", "1 + 1 = 3"] for text in texts]

        return sample

    return open_sampler


def test_sampling_resumes(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    solutions = read_gold_solutions(tiny_data / "gold.jsonl")
    config, whole, stopped = config_of(tiny_base), tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    total = len(draw_beginnings(solutions[2:], config))
    assert total == 10
    never: list[int] = [0, 0, 0]
    assert sample_file(solutions, whole, config, counting(never), source="gold") == total
    calls: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        sample_file(solutions, stopped, config, counting(calls), source="gold")
    assert not stopped.exists()
    partial = stopped.with_name("b.jsonl.partial")
    lines = partial.read_text().splitlines(keepends=True)
    partial.write_text("".join(lines[:5]) + lines[5][:9])  # killed within a line
    sample_file(solutions, stopped, config, counting([0, 0, 0]), source="gold")
    assert stopped.read_text() == whole.read_text()
    questions = [row.question for row in read_next_steps(whole)]
    assert len(questions) == total
    assert not {solution.question for solution in solutions[:2]} & set(questions)


def test_other_settings_do_not_continue_a_file(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    solutions, output = read_gold_solutions(tiny_data / "gold.jsonl"), tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        sample_file(solutions, output, config_of(tiny_base), counting([0]), source="gold")
    other = config_of(tiny_base, seed=1)
    with pytest.raises(TrainingError, match="seed was 0, is 1"):
        sample_file(solutions, output, other, counting([]), source="gold")
    same = config_of(tiny_base)
    changed = [*solutions[:3], replace(solutions[3], question="Who?"), *solutions[4:]]
    with pytest.raises(TrainingError, match="texts_sha256 was"):
        sample_file(changed, output, same, counting([]), source="gold")
    sample_file(changed, output, same, counting([0] * 3), source="gold", overwrite=True)
    assert {row.question for row in read_next_steps(output)} <= {s.question for s in changed}


@pytest.fixture(scope="module")
def sampler(tiny_base: Path) -> LineSampler:
    return LineSampler(FolderBase(path=str(tiny_base)), tiny_base, "Question: 1 + 1?\n2\n\n")


def draw(
    sampler: LineSampler, texts: list[str], seed: int = 0, **changes: float
) -> list[list[str]]:
    settings = {"count": 3, "temperature": 1.0, "max_tokens": 400, **changes}
    found = sampler.sample(texts, generator=torch.Generator().manual_seed(seed), **settings)
    return [[line.text for line in lines if line.is_whole] for lines in found]


def test_the_same_seed_samples_the_same(sampler: LineSampler) -> None:
    texts = ["Question: how many?\n", "Question: how many hens are there on the farm?\n"]
    first = draw(sampler, texts)
    assert first == draw(sampler, texts)
    assert first != draw(sampler, texts, seed=1)
    assert all("\n" not in line for lines in first for line in lines)


def test_lines_without_an_end_are_left_out(sampler: LineSampler) -> None:
    assert draw(sampler, ["a", "b"], max_tokens=0) == [[], []]


def test_lines_count_their_tokens(sampler: LineSampler) -> None:
    generator = torch.Generator().manual_seed(0)
    [lines] = sampler.sample(["a"], count=4, temperature=1.0, max_tokens=6, generator=generator)
    for line in lines:
        assert line.num_tokens == 6 or line.is_whole
        assert 1 <= line.num_tokens <= 6


def test_batching_and_the_cached_preamble_change_no_logits(
    sampler: LineSampler, tiny_base: Path
) -> None:
    """The most likely continuation is the same as for the whole text alone."""
    texts = ["Question: how many?\n", "Question: how many hens are there on the farm?\n"]
    greedy = draw(sampler, texts, temperature=1e-6, count=1, max_tokens=12)
    for text, lines in zip(texts, greedy, strict=True):
        ids = sampler._ids("Question: 1 + 1?\n2\n\n" + text)
        with torch.inference_mode():
            for _ in range(12):
                logits = sampler._model(torch.tensor([ids])).logits[0, -1]
                ids.append(int(logits.argmax()))
        said, end, _ = sampler.tokenizer.decode(ids[-12:]).partition("\n")
        assert lines == ([said] if end else [])


def test_sampled_steps_join_the_constructed_examples(tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "next.jsonl"
    fields = {"gold": tiny_data / "gold.jsonl", "num_constructed": 6, "num_constructed_held_out": 3}
    before = build_examples(DataConfig(**fields), seed=0)
    solutions = read_gold_solutions(fields["gold"])
    rows = [{"question": s.question, "steps": [], "sampled": ["3 + 4 = 9"]} for s in solutions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    added = build_examples(DataConfig(**fields, next_steps=path), seed=0)[len(before) :]
    held_out = {e.trajectory.question for e in before if e.held_out}
    assert len(added) == len(solutions) - len(held_out)
    assert not held_out & {e.trajectory.question for e in added}
    trained = {e.trajectory.question: e.group for e in before if not e.held_out}
    shared = [e for e in added if e.trajectory.question in trained]
    assert shared
    assert all(trained[e.trajectory.question] == e.group for e in shared)
    path.write_text(json.dumps({"question": "Who?", "steps": [], "sampled": []}) + "\n")
    with pytest.raises(TrainingError, match="run rfprm sample on that file"):
        build_examples(DataConfig(**fields, next_steps=path), seed=0)
    path.write_text('{"question": "Who?"}\n')
    with pytest.raises(TrainingError, match="line 1 is not a line of rfprm sample"):
        build_examples(DataConfig(**fields, next_steps=path), seed=0)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_language_model_is_that_of_transformers_without_what_its_folder_names(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=dtype == torch.bfloat16,
    )
    expected = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    expected.save_pretrained(tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    # Each of these would be imported, downloaded or unpickled by transformers.
    content = json.loads((tmp_path / "config.json").read_text())
    content["auto_map"] = {"AutoModelForCausalLM": "trap.Trap"}
    content["attn_implementation"] = "somebody/kernels"
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "trap.py").write_text("raise SystemExit")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/model"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    found = causal_lm(tmp_path)
    ids = torch.arange(20)[None]
    assert found.dtype == dtype
    assert torch.equal(found(ids).logits, expected(ids).logits)
