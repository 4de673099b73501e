"""Which problems the greedy answers of a model of transformers solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from experiments.small_policy import question_text
from experiments.torch_sampling import SamplingSettings, TokenSampler
from rfprm_export.base_model import BaseModel
from rfprm_runtime.answers import answers_agree, final_answer

_BATCH = 50
_ROWS = 256
_END = "<|im_end|>"


class Problem(Protocol):
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...


def solves(model: Any, processing: Any, asked: Sequence[Problem], max_tokens: int) -> list[bool]:
    """For each problem whether the greedy answer is right; ``processing`` is the model's
    tokenizer."""
    was_training = model.training
    found: list[bool] = []
    model.eval()
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        encoded = processing(
            [question_text(problem.question) for problem in some],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        ).to(model.device)
        with torch.inference_mode():
            written = model.generate(
                **encoded,
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=processing.pad_token_id,
                eos_token_id=processing.eos_token_id,
            )
        texts = processing.batch_decode(
            written[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
        )
        found += _are_right(texts, some)
    model.train(was_training)
    return found


def solved_by(
    base: BaseModel,
    asked: Sequence[Problem],
    max_tokens: int,
    *,
    dtype: torch.dtype | None = None,
) -> list[bool]:
    """The same of a model at rest, whose answers are all written together: several times faster on
    a CPU."""
    texts = [question_text(problem.question) for problem in asked]
    ends = torch.zeros(base.backbone.vocab_size, dtype=torch.bool)
    ends[base.tokenizer.token_to_id(_END)] = True
    sampled = TokenSampler(base, device="cpu", dtype=dtype, max_rows=_ROWS).sample(
        [e.ids for e in base.tokenizer.encode_batch(texts, add_special_tokens=False)],
        SamplingSettings(temperature=0, max_tokens=max_tokens),
        ends=ends,
    )
    return _are_right(base.tokenizer.decode_batch([one.token_ids for one in sampled]), asked)


def _are_right(texts: Sequence[str], asked: Sequence[Problem]) -> list[bool]:
    return [
        answers_agree(final_answer(text), problem.answer) is True
        for text, problem in zip(texts, asked, strict=True)
    ]
