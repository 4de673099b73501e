"""How likely right solutions are to a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experiments.small_policy import question_text

_BATCH = 16


def reference_logprobs(
    model: Any, processing: Any, references: Sequence[tuple[str, Sequence[str]]]
) -> list[float]:
    """For each question with its right solutions, the mean log-probability of a token of a
    solution, in nats; ``processing`` is the model's tokenizer."""
    model.eval()
    pairs = [(question, solution) for question, of_one in references for solution in of_one]
    found: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        some = pairs[start : start + _BATCH]
        prompts = [processing(question_text(question)).input_ids for question, _ in some]
        # Apart, as the model met them in training: a token never spans both.
        solutions = [processing(solution).input_ids for _, solution in some]
        found += _means(model, prompts, solutions)
    of_questions = np.split(found, np.cumsum([len(of_one) for _, of_one in references])[:-1])
    return [float(np.mean(of_question)) for of_question in of_questions]


def _means(model: Any, prompts: Sequence[list[int]], solutions: Sequence[list[int]]) -> list[float]:
    longest = max(len(p) + len(s) for p, s in zip(prompts, solutions, strict=True))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    real = torch.zeros_like(ids)
    for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True)):
        length = len(prompt) + len(solution)
        ids[row, :length], real[row, :length] = torch.tensor(prompt + solution), 1
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), attention_mask=real.to(model.device)).logits
    logprobs = logits[:, :-1].float().log_softmax(-1).cpu()
    of_tokens = logprobs.gather(2, ids[:, 1:, None])[:, :, 0]
    return [
        float(of_tokens[row, len(prompt) - 1 : len(prompt) + len(solution) - 1].mean())
        for row, (prompt, solution) in enumerate(zip(prompts, solutions, strict=True))
    ]
