"""Which problems the greedy answers of a model solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from experiments.small_policy import question_text
from experiments.torch_sampling import SamplingSettings, TokenSampler
from rfprm_export.base_model import BaseModel
from rfprm_runtime.answers import answers_agree, final_answer

_ROWS = 256
_END = "<|im_end|>"


class Problem(Protocol):
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...


def greedy_answers(
    base: BaseModel,
    asked: Sequence[Problem],
    max_tokens: int,
    *,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """The greedy answer to each problem. All are written together, which on a CPU is several times
    faster than in batches by transformers."""
    texts = [question_text(problem.question) for problem in asked]
    sampled = TokenSampler(base, device="cpu", dtype=dtype, max_rows=_ROWS).sample(
        [e.ids for e in base.tokenizer.encode_batch(texts, add_special_tokens=False)],
        SamplingSettings(temperature=0, max_tokens=max_tokens),
        ends=end_of_turn(base),
    )
    return base.tokenizer.decode_batch([one.token_ids for one in sampled])


def end_of_turn(base: BaseModel) -> torch.Tensor:
    """Where the answers of :mod:`.fine_tuning` end, bool [vocab_size]."""
    ends = torch.zeros(base.backbone.vocab_size, dtype=torch.bool)
    ends[base.tokenizer.token_to_id(_END)] = True
    return ends


def are_right(texts: Sequence[str], asked: Sequence[Problem]) -> list[bool]:
    """Whether the final answer of each text is that of its problem."""
    return [
        answers_agree(final_answer(text), problem.answer) is True
        for text, problem in zip(texts, asked, strict=True)
    ]
