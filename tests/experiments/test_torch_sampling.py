"""The sampler against transformers, and what is built on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")  # beside the policy that needs it

from experiments import greedy, guided_search, sample_solutions
from experiments.policies import TorchPolicy
from experiments.search_figures import summarise
from experiments.torch_decoder import _attend, _attend_by_hand
from experiments.torch_sampling import Sampled, SamplingSettings, TokenSampler, _draw, _largest
from rfprm_export.base_model import BaseModel, backbone_from_config
from rfprm_export.stored_weights import StoredWeights
from rfprm_runtime import Scorer, Trajectory
from rfprm_runtime.search import Budget, Request
from rfprm_training.gsm8k import GoldSolution
from tiny_models import byte_tokenizer

_END = 7
"""The last of the tokens that end a continuation."""
_MOST = 40


def _model(kind: str, vocab_size: int = 300, *, tied: bool = False) -> tuple[Any, BaseModel]:
    """A model of transformers with random weights, and the same as a base model."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    shape = backbone_from_config({**config.to_dict(), "architectures": [f"{kind}ForCausalLM"]})
    tokenizer = byte_tokenizer((*_SPECIAL, "<|im_end|>", "<|endoftext|>"))
    return model, BaseModel(shape, StoredWeights.of(state), tokenizer, 512)


_SPECIAL = ("<|im_start|>",)


@pytest.mark.parametrize(
    ("kind", "tied", "prefix"),
    [
        ("Qwen2", False, 0),
        ("Qwen2", True, 0),
        ("Llama", False, 0),
        ("Qwen2", False, 31),
        ("Qwen2", False, 32),
        ("Llama", False, 75),
    ],
)
def test_greedy_continuations_are_those_of_transformers(kind: str, tied: bool, prefix: int) -> None:
    model, base = _model(kind, tied=tied)
    rng = np.random.default_rng(0)
    lengths = (3, 9, 30, 70, 5, 64, 63, 65, 12, 9)
    beginning = rng.integers(0, 300, size=prefix).tolist()
    prompts = [beginning + rng.integers(0, 300, size=length).tolist() for length in lengths]
    prompts += prompts[:3]  # shared prompts are computed once
    ends = torch.arange(300) <= _END
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=7)
    done: list[int] = []
    found = sampler.sample(
        prompts,
        SamplingSettings(temperature=0, max_tokens=_MOST),
        ends=ends,
        on_done=lambda number, total: done.append(number),
    )
    assert done[0] == 0
    assert done[-1] == len(prompts)
    assert done == sorted(done)
    assert {one.ended for one in found} == {True, False}
    for prompt, one in zip(prompts, found, strict=True):
        expected, logprobs = _greedy(model, prompt)
        assert one.token_ids == expected
        assert one.mean_logprob == pytest.approx(np.mean(logprobs), abs=1e-4)
        assert one.ended == (expected[-1] <= _END)


def test_places_are_taken_again_before_the_longest_row_has_ended() -> None:
    _, base = _model("Qwen2")
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=8)
    passes: list[int] = []
    decode = sampler.decoder.decode

    def counting(tokens: Any, *rest: Any) -> Any:
        passes.append(len(tokens))
        return decode(tokens, *rest)

    sampler.decoder.decode = counting  # type: ignore[method-assign]
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 300, size=6).tolist() for _ in range(64)]
    found = sampler.sample(
        prompts,
        SamplingSettings(max_tokens=150),
        ends=torch.arange(300) <= 12,
        generator=torch.Generator().manual_seed(0),
    )
    lengths = [len(one.token_ids) for one in found]
    assert max(lengths) > 2 * np.mean(lengths)
    # In waves of eight, each would have waited for its longest row.
    waves = [lengths[start : start + 8] for start in range(0, 64, 8)]
    assert sum(lengths) < sum(passes) < 0.8 * 8 * sum(map(max, waves))
    assert {one.ended for one in found} <= {True, False}
    assert all(one.ended or len(one.token_ids) == 150 for one in found)


@pytest.mark.parametrize("max_tokens", [1, 2, 8, 9])
def test_no_row_has_more_tokens_than_it_may(max_tokens: int) -> None:
    _, base = _model("Qwen2")
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=2)
    nothing_ends = torch.zeros(300, dtype=torch.bool)
    settings = SamplingSettings(max_tokens=max_tokens)
    found = sampler.sample([[8, 9]] * 5, settings, ends=nothing_ends)
    assert [len(one.token_ids) for one in found] == [max_tokens] * 5
    assert not any(one.ended for one in found)
    assert sampler.sample([], settings, ends=nothing_ends) == []


@pytest.mark.parametrize("length", [1, 33, 80])
def test_rows_with_one_prompt_have_its_continuation(length: int) -> None:
    model, base = _model("Qwen2")
    prompt = np.random.default_rng(2).integers(0, 300, size=length).tolist()
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=3)
    settings = SamplingSettings(temperature=0, max_tokens=_MOST)
    found = sampler.sample([prompt] * 5, settings, ends=torch.arange(300) <= _END)
    assert [one.token_ids for one in found] == [_greedy(model, prompt)[0]] * 5


def test_every_prompt_has_its_own_temperature() -> None:
    model, base = _model("Qwen2")
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 300, size=length).tolist() for length in (9, 4, 20, 7, 12, 5)]
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=4)
    temperatures = [0.0, 50.0, 0.0, 50.0, 0.0, 50.0]
    found = sampler.sample(
        prompts,
        SamplingSettings(temperature=0.8, max_tokens=_MOST, top_p=1.0, top_k=300),
        ends=torch.arange(300) <= _END,
        temperatures=temperatures,
        generator=torch.Generator().manual_seed(0),
    )
    for prompt, heat, one in zip(prompts, temperatures, found, strict=True):
        assert (one.token_ids == _greedy(model, prompt)[0]) == (heat == 0)


def test_attention_to_a_prefix_is_attention_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    query, kept, prefix = draw(5, 2, 3, 16), draw(2, 5, 2, 9, 16), draw(2, 2, 7, 16)
    visible = (torch.arange(9) <= torch.tensor([[0], [8], [3], [5], [1]]))[:, None, None, :]
    everywhere = torch.cat((prefix[:, None].expand(-1, 5, -1, -1, -1), kept), dim=3)
    mask = torch.cat((torch.ones(5, 1, 1, 7, dtype=torch.bool), visible), dim=-1)
    attention = torch.nn.functional.scaled_dot_product_attention
    expected = attention(query, everywhere[0], everywhere[1], attn_mask=mask)
    torch.testing.assert_close(_attend(query, kept, visible, prefix), expected)
    # Without a CPU's kernel.
    hidden = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf).expand(-1, 2, 3, -1)
    mixed, mass = _attend_by_hand(query, kept, hidden)
    torch.testing.assert_close(mixed, attention(query, kept[0], kept[1], attn_mask=visible))
    scores = (query @ kept[0].mT / 4).masked_fill(~visible, -torch.inf)
    torch.testing.assert_close(mass, scores.logsumexp(-1))


@pytest.mark.parametrize(("size", "count"), [(300, 50), (1024, 5), (12_800, 50), (12_801, 50)])
def test_the_largest_are_those_of_topk(size: int, count: int) -> None:
    logits = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    logits[1] = torch.linspace(0, 1, size)  # all of them in one chunk
    expected = logits.topk(count)
    found, ids = _largest(logits, count)
    assert torch.equal(found, expected.values)
    assert torch.equal(ids, expected.indices)


def _greedy(model: Any, prompt: list[int]) -> tuple[list[int], list[float]]:
    ids, logprobs = list(prompt), []
    with torch.no_grad():
        for _ in range(_MOST):
            at_end = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(at_end.argmax()))
            logprobs.append(float(at_end.max()))
            if ids[-1] <= _END:
                break
    return ids[len(prompt) :], logprobs


def test_draws_follow_temperature_and_nucleus() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)

    def shares(**settings: Any) -> list[float]:
        of_rows = SamplingSettings(**settings)
        heat = torch.full((len(logits),), of_rows.temperature)
        tokens, logprobs = _draw(logits, heat, of_rows, generator)
        assert torch.allclose(logprobs, logits[0][tokens], atol=1e-5)
        counts = torch.bincount(tokens, minlength=4).numpy()
        return (counts / len(tokens)).tolist()

    assert shares(temperature=1.0, top_p=1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    squares = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert shares(temperature=0.5, top_p=1.0) == pytest.approx(squares / squares.sum(), abs=0.02)
    # The nucleus is the fewest tokens that hold top_p together.
    assert shares(temperature=1.0, top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(temperature=1.0, top_p=0.81)[2] > 0.1
    assert shares(temperature=1.0, top_p=1.0, top_k=1)[0] == 1
    assert shares(temperature=0.0)[0] == 1


def test_other_families_are_refused() -> None:
    _, base = _model("Qwen2")
    shape = base.backbone.model_copy(update={"qk_norm": True})
    with pytest.raises(ValueError, match="Llama and Qwen2"):
        TokenSampler(BaseModel(shape, base.weights, base.tokenizer, 512), device="cpu")


def test_a_policy_proposes_lines() -> None:
    _, base = _model("Qwen2", vocab_size=300)
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
    _, base = _model("Qwen2", vocab_size=300)
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


def test_answers_written_together_are_those_of_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import PreTrainedTokenizerFast

    model, base = _model("Llama", vocab_size=300)
    make: Any = PreTrainedTokenizerFast
    processing = make(
        tokenizer_object=base.tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    asked = [GoldSolution(f"What is {n} + {n}{'?' * n}", (), str(2 * n)) for n in range(60)]
    written: list[list[str]] = []

    def note(texts: list[str], some: Any) -> list[bool]:
        written.append(texts)
        return [False] * len(some)

    monkeypatch.setattr(greedy, "_are_right", note)
    greedy.solves(model, processing, asked, 20)
    greedy.solved_by(base, asked, 20, dtype=torch.float32)
    *batches, together = written
    assert [text for batch in batches for text in batch] == together
    assert len(set(together)) > 1


def test_independent_solutions_are_scored_as_traces(tiny_artifact: Path, tmp_path: Path) -> None:
    _, base = _model("Qwen2", vocab_size=300)
    asked = [GoldSolution(f"What is {n} + {n}?", (), str(2 * n)) for n in range(5)]

    def policy() -> TorchPolicy:
        return TorchPolicy(
            base, device="cpu", dtype=torch.float32, max_step_tokens=8, max_tokens=24
        )

    with Scorer.load(tiny_artifact) as scorer:
        budget = Budget(max_depth=2, max_tokens=60)
        output, searches = tmp_path / "searches.jsonl", ("beam search, by reward",)
        rows = guided_search.run(
            scorer,
            policy(),
            asked,
            output,
            {"of": "a test"},
            budget,
            num_traces=4,
            searches=searches,
            at_once=2,
        )
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


def test_sampled_solutions_are_those_of_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base = _model("Qwen2", vocab_size=300)
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
