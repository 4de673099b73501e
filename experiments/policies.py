"""Language models that solve problems step by step, for searches to guide."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from experiments.small_policy import question_text
from rfprm_export.named_base import FolderBase
from rfprm_runtime.search import Proposal, Request
from rfprm_runtime.search.completion_proposer import CompletionProposer
from rfprm_runtime.search.step_format import StepFormat
from rfprm_training.construction.sampling.line_sampler import LineSampler

_ROWS = 32
_OPENING = "Question:"
"""The beginning of all prompts; the sampler computes it once."""
_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class SmallPolicy:
    """A model of `experiments.small_policy` as a proposer; a step is a line."""

    def __init__(self, folder: Path, *, temperature: float, seed: int) -> None:
        self._sampler = LineSampler(
            FolderBase(path=str(folder.absolute())),
            folder,
            _OPENING,
            prepare_model=_with_small_weights,
        )
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        found: dict[int, list[Proposal]] = {}
        order = sorted(range(len(requests)), key=lambda index: requests[index].count)
        for count, group in groupby(order, key=lambda index: requests[index].count):
            indices = list(group)
            size = max(1, _ROWS // count)
            for start in range(0, len(indices), size):
                batch = indices[start : start + size]
                texts = [_beginning(requests[index]) for index in batch]
                lines = self._sampler.sample(
                    texts,
                    count=count,
                    temperature=self._temperature,
                    max_tokens=64,
                    generator=self._generator,
                )
                for index, drawn in zip(batch, lines, strict=True):
                    found[index] = [_proposal(*line) for line in drawn]
        return [found[index] for index in range(len(requests))]


def served_policy(
    base_url: str, model: str, *, temperature: float, concurrency: int
) -> CompletionProposer:
    """A chat model of the Qwen family behind an OpenAI-compatible server; a step is a paragraph."""
    return CompletionProposer(
        base_url,
        model,
        step_format=StepFormat(prompt=_chat_prompt, is_final=lambda step: "\\boxed" in step),
        temperature=temperature,
        concurrency=concurrency,
        timeout=600,
    )


def _chat_prompt(question: str, so_far: str) -> str:
    turns = (("system", _SYSTEM), ("user", question))
    before = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{before}<|im_start|>assistant\n{so_far}"


def _with_small_weights(model: Any) -> Any:
    """The model with linears in 8 bits, which doubles its speed on a CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quantize: Any = torch.ao.quantization.quantize_dynamic
        return quantize(model, {torch.nn.Linear}, dtype=torch.qint8)


def _beginning(request: Request) -> str:
    text = question_text(request.question) + "".join(f"{step}\n" for step in request.steps)
    return text.removeprefix(_OPENING)


def _proposal(text: str, num_tokens: int, is_whole: bool) -> Proposal:
    step = text.strip()
    # After its answer the model would invent another question. A blank line also ends a trace.
    is_last = not step or not is_whole or "answer is" in step.lower() or step.startswith("A:")
    return Proposal(step, num_tokens, finished=is_last)
