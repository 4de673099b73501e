"""Language models that solve problems step by step, for searches to guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from experiments.small_policy import question_text
from experiments.torch_sampling import Sampled, SamplingSettings, TokenSampler
from rfprm_export.base_model import BaseModel
from rfprm_runtime.search import Proposal, Request
from rfprm_runtime.search.completion_proposer import CompletionProposer
from rfprm_runtime.search.step_format import StepFormat
from rfprm_training.construction.sampling.solutions import SYSTEM_PROMPT

_ROWS_OF = {"cuda": 2048, "cpu": 256}
VERBOSE = SYSTEM_PROMPT
CONCISE = (
    "Solve the problem in a few short steps, one line each. End with the final answer in \\boxed{}."
)
"""A system prompt after which a line is a step."""
_ENDS_OF_TURN = ("<|im_end|>", "<|endoftext|>")


def _is_answered(step: str) -> bool:
    # After its answer a fine-tuned policy would invent another question.
    return "answer is" in step.lower() or step.startswith("A:")


CHAT = StepFormat(
    prompt=lambda question, so_far: chat_prompt(question, so_far, CONCISE),
    separator="\n",
    is_final=lambda step: "\\boxed" in step,
)
"""How a chat model of the Qwen family is asked for steps."""
FINE_TUNED = StepFormat(
    prompt=lambda question, so_far: question_text(question) + so_far,
    separator="\n",
    is_final=_is_answered,
)
"""How a policy of `experiments.small_policy` or `experiments.puzzle_policy` is."""


def served_policy(
    base_url: str, model: str, *, temperature: float, concurrency: int
) -> CompletionProposer:
    """A chat model of the Qwen family behind an OpenAI-compatible server; a step is a paragraph."""
    return CompletionProposer(
        base_url,
        model,
        step_format=StepFormat(prompt=chat_prompt, is_final=lambda step: "\\boxed" in step),
        temperature=temperature,
        concurrency=concurrency,
        timeout=600,
    )


@dataclass(frozen=True)
class Solution:
    """A whole answer to a question."""

    steps: tuple[str, ...]
    """Its lines, up to the one that states the answer."""
    num_tokens: int
    """All that were generated."""


class TorchPolicy:
    """A policy without a server: all branches of all searches continue at once; a step is a
    line."""

    def __init__(
        self,
        base: BaseModel,
        step_format: StepFormat = CHAT,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        temperature: float = 0.8,
        max_step_tokens: int = 96,
        max_tokens: int = 320,
        seed: int = 0,
    ) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer, self._format = base.tokenizer, step_format
        self._sampler = TokenSampler(base, device=device, dtype=dtype, max_rows=_ROWS_OF[device])
        self._settings = SamplingSettings(temperature=temperature, max_tokens=max_step_tokens)
        self._whole = SamplingSettings(temperature=temperature, max_tokens=max_tokens)
        self._generator = torch.Generator(device).manual_seed(seed)
        self._end_of_turn = ends_of_turn(base)
        self._ends = self._end_of_turn | _with_newline(base)

    def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        found = self._sample(
            [self._format.prompt_for(r.question, r.steps) for r in requests],
            [request.count for request in requests],
            self._settings,
            self._ends,
        )
        return [[self._proposal(one) for one in of_request] for of_request in found]

    def solutions(self, questions: Sequence[str], count: int) -> list[list[Solution]]:
        """``count`` independent answers to each question, drawn whole: far cheaper than a step at
        a time, which computes what went before again."""
        prompts = [self._format.prompt_for(question, ()) for question in questions]
        found = self._sample(prompts, [count] * len(prompts), self._whole, self._end_of_turn)
        return [[self._solution(one) for one in of_question] for of_question in found]

    def _sample(
        self,
        texts: Sequence[str],
        counts: Sequence[int],
        settings: SamplingSettings,
        ends: torch.Tensor,
    ) -> list[list[Sampled]]:
        encoded = [e.ids for e in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        prompts = [ids for ids, count in zip(encoded, counts, strict=True) for _ in range(count)]
        sampled = iter(
            self._sampler.sample(prompts, settings, ends=ends, generator=self._generator)
        )
        return [[next(sampled) for _ in range(count)] for count in counts]

    def _solution(self, sampled: Sampled) -> Solution:
        text = self._tokenizer.decode(sampled.token_ids, skip_special_tokens=True)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        final = (n for n, line in enumerate(lines, start=1) if self._format.is_final(line))
        return Solution(tuple(lines[: next(final, len(lines))]), len(sampled.token_ids))

    def _proposal(self, sampled: Sampled) -> Proposal:
        step = self._tokenizer.decode(sampled.token_ids, skip_special_tokens=True).strip()
        ended = bool(self._end_of_turn[sampled.token_ids[-1]])
        is_last = ended or not step or not sampled.ended or self._format.is_final(step)
        return Proposal(step, len(sampled.token_ids), finished=is_last)


def ends_of_turn(base: BaseModel) -> torch.Tensor:
    """Which tokens end the answer of a policy, bool [vocab_size]."""
    ends = torch.zeros(base.backbone.vocab_size, dtype=torch.bool)
    ends[[base.tokenizer.token_to_id(token) for token in _ENDS_OF_TURN]] = True
    return ends


def _with_newline(base: BaseModel) -> torch.Tensor:
    ids = range(base.tokenizer.get_vocab_size())
    texts = base.tokenizer.decode_batch([[index] for index in ids], skip_special_tokens=False)
    ends = torch.zeros(base.backbone.vocab_size, dtype=torch.bool)
    ends[: len(texts)] = torch.tensor(["\n" in text for text in texts])
    return ends


def chat_prompt(
    question: str,
    so_far: str = "",
    system: str = VERBOSE,
    examples: Sequence[tuple[str, str]] = (),
) -> str:
    """The beginning of an answer in the chat format of the Qwen family; ``examples`` are earlier
    questions with their answers."""
    turns = [("system", system)]
    for asked, answer in examples:
        turns += [("user", asked), ("assistant", answer)]
    turns.append(("user", question))
    before = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{before}<|im_start|>assistant\n{so_far}"
