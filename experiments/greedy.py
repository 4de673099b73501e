"""Which problems the greedy answers of a model of transformers solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from experiments.small_policy import question_text
from rfprm_runtime.answers import answers_agree, final_answer

_BATCH = 50


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
        found += [
            answers_agree(final_answer(text), problem.answer) is True
            for text, problem in zip(texts, some, strict=True)
        ]
    model.train(was_training)
    return found
