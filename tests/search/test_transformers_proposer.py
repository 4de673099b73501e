"""The proposer on transformers: a scripted model for the details, a random one for a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rfprm_runtime import Scorer
from rfprm_runtime.search import BestOfN, Budget, Proposal, Request, Searcher
from rfprm_runtime.search.step_format import StepFormat
from rfprm_runtime.search.transformers_proposer import TransformersProposer
from tiny_models import byte_tokenizer

torch = pytest.importorskip("torch")
QUESTION = "How many legs do three cats have?"
END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), eos_token=END, pad_token="<|im_start|>"
    )


@pytest.fixture(scope="module")
def random_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


class Dictated:
    """Stands in for a model: writes given texts, padded as ``generate`` does."""

    device = "cpu"

    def __init__(self, tokenizer: Any, texts: Sequence[Sequence[str]]) -> None:
        self.tokenizer, self.texts = tokenizer, [list(batch) for batch in texts]
        self.asked: list[dict[str, Any]] = []
        self.generation_config = type("Config", (), {"eos_token_id": tokenizer.eos_token_id})

    def generate(self, input_ids: Any, **options: Any) -> Any:
        self.asked.append({"prompts": self.tokenizer.batch_decode(input_ids), **options})
        rows = [self.tokenizer(t, add_special_tokens=False).input_ids for t in self.texts.pop(0)]
        width = max(map(len, rows))
        padded = [row + [self.tokenizer.pad_token_id] * (width - len(row)) for row in rows]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)


def test_texts_become_steps_with_their_cost(tokenizer: Any) -> None:
    model = Dictated(tokenizer, [["four each\n\n", f"12{END}", "cut cut cut", END]])
    proposer = TransformersProposer(model, tokenizer)
    requests = [Request("a?", (), 1), Request("b?", ("x",), 3)]
    assert proposer(requests) == [
        [Proposal("four each", 11)],
        [
            Proposal("12", 3, finished=True),
            Proposal("cut cut cut", 11),
            Proposal("", 1, finished=True),
        ],
    ]
    [asked] = model.asked
    assert [prompt.replace("<|im_start|>", "") for prompt in asked["prompts"]] == [
        "a?\n\n",
        *["b?\n\nx\n\n"] * 3,
    ]
    assert asked["stop_strings"] == ["\n\n"]


def test_the_response_follows_the_thinking(tokenizer: Any) -> None:
    model = Dictated(tokenizer, [["So 12.</think>", "no end\n\n"], [f" It is\n\n12.{END}"]])
    proposer = TransformersProposer(
        model, tokenizer, step_format=StepFormat(close_thinking="</think>")
    )
    [[ended, goes_on]] = proposer([Request("a?", (), 2)])
    assert ended == Proposal("So 12.", 12 + 12, finished=True, response=("It is", "12."))
    assert goes_on == Proposal("no end", 8)
    assert model.asked[1]["prompts"] == ["a?\n\nSo 12.</think>"]
    assert "stop_strings" not in model.asked[1]


def test_blank_lines_before_a_step_are_kept_and_counted(tokenizer: Any) -> None:
    model = Dictated(tokenizer, [["\n\n", "one\n\n"], ["\n\n"], ["two\n\n"]])
    found = TransformersProposer(model, tokenizer)([Request("a?", (), 2)])
    assert found == [[Proposal("two", 9), Proposal("one", 5)]]
    assert model.asked[2]["prompts"] == ["a?" + "\n" * 6]


def test_a_policy_that_writes_only_blank_lines_proposes_nothing(tokenizer: Any) -> None:
    model = Dictated(tokenizer, [["\n\n"]] * 3)
    assert TransformersProposer(model, tokenizer)([Request("a?", (), 1)]) == [[]]


def test_batches_respect_max_batch_and_keep_the_order(tokenizer: Any) -> None:
    model = Dictated(tokenizer, [["one", "two"], ["three"]])
    requests = [Request("x" * length, (), 1) for length in (9, 5, 7)]
    found = TransformersProposer(model, tokenizer, max_batch=2)(requests)
    assert [steps[0].text for steps in found] == ["three", "one", "two"]


def test_a_real_model_searches(random_model: Any, tokenizer: Any, scorer: Scorer) -> None:
    torch.manual_seed(3)
    proposer = TransformersProposer(
        random_model,
        tokenizer,
        step_format=StepFormat(separator="e"),
        max_step_tokens=24,
        top_p=0.99,
    )
    result = Searcher(scorer, proposer, BestOfN(6), budget=Budget(max_depth=5)).search(QUESTION)
    steps = [node for node in result.tree.nodes[1:] if node.step]
    assert len(steps) >= 6
    assert all("e" not in node.step for node in steps)
    assert result.spent.num_tokens >= len(steps)
    torch.manual_seed(3)
    again = Searcher(scorer, proposer, BestOfN(6), budget=Budget(max_depth=5)).search(QUESTION)
    assert again.tree.as_dict() == result.tree.as_dict()
