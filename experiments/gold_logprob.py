"""How likely gold solutions are to a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from experiments.small_policy import question_text, solution_text
from rfprm_training.gsm8k import GoldSolution

_BATCH = 16


def gold_logprobs(model: Any, processing: Any, asked: Sequence[GoldSolution]) -> list[float]:
    """For each problem the mean log-probability of a token of its gold solution, in nats;
    ``processing`` is the model's tokenizer."""
    model.eval()
    found: list[float] = []
    for start in range(0, len(asked), _BATCH):
        some = asked[start : start + _BATCH]
        prompts = [processing(question_text(one.question)).input_ids for one in some]
        # Apart, as the model met them in training: a token never spans both.
        solutions = [processing(solution_text(one)).input_ids for one in some]
        found += _means(model, prompts, solutions)
    return found


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
