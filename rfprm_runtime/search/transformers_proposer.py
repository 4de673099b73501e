"""Steps from a causal language model in this process, by ``generate`` of ``transformers``.

Imports neither transformers nor torch: whoever has a model has loaded them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from rfprm_runtime.ground.arguments import check_not_negative
from rfprm_runtime.search.proposals import Proposal, Request
from rfprm_runtime.search.step_format import MAX_BLANK, StepFormat


class TransformersProposer:
    """A proposer for :class:`~rfprm_runtime.search.Searcher` that generates in batches across the
    branches and questions of a round. It runs one batch at a time, even if threads share it."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        step_format: StepFormat | None = None,
        temperature: float = 0.8,
        max_step_tokens: int = 256,
        max_response_tokens: int = 1024,
        max_batch: int = 32,
        **generation: Any,
    ) -> None:
        """``model`` has the ``generate`` of transformers; ``tokenizer`` is its tokenizer, used
        without adding special tokens to the prompt. ``generation``: further arguments of
        ``generate`` (``top_p``, ``min_p``, …). Draws follow torch's global seed. ``max_batch``:
        how many traces to continue at once. A step cut off at ``max_step_tokens`` is kept as is."""
        check_not_negative("temperature", temperature)
        self._model, self._tokenizer = model, tokenizer
        self._format = step_format or StepFormat()
        self._max_step_tokens, self._max_response_tokens = max_step_tokens, max_response_tokens
        self._max_batch = max_batch
        self._generation = {"do_sample": True, "temperature": temperature, **generation}
        self._lock = threading.Lock()

    def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        prompts = [
            self._format.prompt_for(request.question, request.steps)
            for request in requests
            for _ in range(request.count)
        ]
        with self._lock:
            proposals = self._steps(prompts)
        found = iter(proposals)
        return [
            [p for p in (next(found) for _ in range(request.count)) if p is not None]
            for request in requests
        ]

    def _steps(self, prompts: list[str]) -> list[Proposal | None]:
        proposals: list[Proposal | None] = [None] * len(prompts)
        texts, costs = [""] * len(prompts), [0] * len(prompts)
        blank = list(range(len(prompts)))
        for _ in range(MAX_BLANK):
            found = self._continue(
                [prompts[i] for i in blank], self._max_step_tokens, stop=self._format.separator
            )
            for index, (text, num_tokens, ended) in zip(blank, found, strict=True):
                texts[index], costs[index] = text, costs[index] + num_tokens
                proposals[index] = self._format.read(text, costs[index], ended=ended)
            blank = [index for index in blank if proposals[index] is None]
            for index in blank:
                prompts[index] = self._format.after_blank(prompts[index], texts[index])
        self._add_responses(prompts, texts, proposals)
        return proposals

    def _add_responses(
        self, prompts: Sequence[str], texts: Sequence[str], proposals: list[Proposal | None]
    ) -> None:
        """Ask for the response of each trace whose thinking has ended."""
        ending = [i for i, text in enumerate(texts) if self._format.ends_thinking(text)]
        rest = self._continue(
            [prompts[i] + texts[i] for i in ending], self._max_response_tokens, stop=None
        )
        for index, (text, num_tokens, _) in zip(ending, rest, strict=True):
            proposal = proposals[index]
            assert proposal is not None
            proposals[index] = self._format.with_response(proposal, texts[index], text, num_tokens)

    def _continue(
        self, prompts: Sequence[str], max_tokens: int, *, stop: str | None
    ) -> list[tuple[str, int, bool]]:
        """Text, number of tokens and whether the policy stopped by itself, for each prompt."""
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, tuple[str, int, bool]] = {}
        for start in range(0, len(by_length), self._max_batch):
            batch = by_length[start : start + self._max_batch]
            answers = self._generate([prompts[index] for index in batch], max_tokens, stop)
            found.update(zip(batch, answers, strict=True))
        return [found[index] for index in range(len(prompts))]

    def _generate(
        self, prompts: list[str], max_tokens: int, stop: str | None
    ) -> list[tuple[str, int, bool]]:
        inputs = self._tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(self._model.device)
        stopping = {} if stop is None else {"stop_strings": [stop], "tokenizer": self._tokenizer}
        output = self._model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            **stopping,
            **self._generation,
        )
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._read(row, stop) for row in rows]

    def _read(self, row: list[int], stop: str | None) -> tuple[str, int, bool]:
        """The text of a row of new tokens, without its padding to the longest in the batch."""
        ends = self._end_tokens()
        length = next((i for i, token in enumerate(row) if token in ends), len(row))
        ended = length < len(row)
        # A row that stopped at the separator is padded, perhaps with the end token.
        text = str(self._tokenizer.decode(row[:length], skip_special_tokens=True))
        if stop is not None and stop in text:
            ended = False
        return text, min(length + ended, len(row)), ended

    def _end_tokens(self) -> set[int]:
        ends = self._model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return {token for token in (*listed, self._tokenizer.pad_token_id) if token is not None}
