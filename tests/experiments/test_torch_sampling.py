"""The sampler against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from experiments.torch_decoder import _attend, _attend_by_hand
from experiments.torch_sampling import SamplingSettings, TokenSampler, _draw, _largest
from rfprm_export.base_model import BaseModel
from tiny_policies import policy_model

_END = 7
"""The last of the tokens that end a continuation."""
_MOST = 40


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
    model, base = policy_model(kind, tied=tied)
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
    _, base = policy_model("Qwen2")
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
    _, base = policy_model("Qwen2")
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=2)
    nothing_ends = torch.zeros(300, dtype=torch.bool)
    settings = SamplingSettings(max_tokens=max_tokens)
    found = sampler.sample([[8, 9]] * 5, settings, ends=nothing_ends)
    assert [len(one.token_ids) for one in found] == [max_tokens] * 5
    assert not any(one.ended for one in found)
    assert sampler.sample([], settings, ends=nothing_ends) == []


@pytest.mark.parametrize("length", [1, 33, 80])
def test_rows_with_one_prompt_have_its_continuation(length: int) -> None:
    model, base = policy_model("Qwen2")
    prompt = np.random.default_rng(2).integers(0, 300, size=length).tolist()
    sampler = TokenSampler(base, device="cpu", dtype=torch.float32, max_rows=3)
    settings = SamplingSettings(temperature=0, max_tokens=_MOST)
    found = sampler.sample([prompt] * 5, settings, ends=torch.arange(300) <= _END)
    assert [one.token_ids for one in found] == [_greedy(model, prompt)[0]] * 5


def test_every_prompt_has_its_own_temperature() -> None:
    model, base = policy_model("Qwen2")
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
    whole: dict[str, Any] = {"top_p": 1.0, "top_k": None}
    assert shares(temperature=1.0, **whole) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.02)
    assert shares(temperature=0.5, **whole) == pytest.approx(squares / squares.sum(), abs=0.02)
    assert shares(temperature=0.0, **whole)[0] == 1
    with pytest.raises(ValueError, match=r"top_p is 0\.95"):
        SamplingSettings(top_k=None)


@pytest.mark.parametrize("size", [100, 512])
def test_a_draw_from_the_whole_vocabulary_is_in_proportion(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((1, size), -torch.inf)
    logits[0, [3, 64, size - 100, size - 1]] = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    settings = SamplingSettings(1.0, top_p=1.0, top_k=None)
    tokens, logprobs = _draw(logits.expand(20_000, -1), torch.ones(20_000), settings, generator)
    counts = torch.bincount(tokens, minlength=size) / len(tokens)
    assert counts.numpy() == pytest.approx(logits[0].exp().numpy(), abs=0.02)
    assert torch.allclose(logprobs, logits[0][tokens], atol=1e-5)


def test_other_families_are_refused() -> None:
    _, base = policy_model("Qwen2")
    shape = base.backbone.model_copy(update={"qk_norm": True})
    with pytest.raises(ValueError, match="Llama and Qwen2"):
        TokenSampler(BaseModel(shape, base.weights, base.tokenizer, 512), device="cpu")
