"""Completions from the policy in TRL's GRPOTrainer, as the trainer samples and reads them itself.

Knows TRL's trainer (tested with 1.16); knows no rewards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rfprm_runtime.errors import InvalidOperationError

_NEEDED = ("_tokenize_prompts", "_generate_single_turn")


@dataclass(frozen=True)
class Samples:
    """Prompts and completions, [N] each."""

    prompts: list[Any]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    logprobs: list[Any] | None
    """Of each token under the policy that sampled it; None if the trainer computes them."""

    def take(self, indices: Sequence[int]) -> Samples:
        return Samples(
            [self.prompts[i] for i in indices],
            [self.prompt_ids[i] for i in indices],
            [self.completion_ids[i] for i in indices],
            None if self.logprobs is None else [self.logprobs[i] for i in indices],
        )

    def as_rollout(self) -> dict[str, Any]:
        """What TRL expects of a ``rollout_func``."""
        return {
            "prompt_ids": self.prompt_ids,
            "completion_ids": self.completion_ids,
            "logprobs": self.logprobs,
        }


def check_generates(trainer: Any) -> None:
    """Raise ``RuntimeError`` for a trainer whose completions cannot be sampled here."""
    missing = [name for name in _NEEDED if not callable(getattr(trainer, name, None))]
    if missing:
        raise InvalidOperationError(
            f"the trainer, a {type(trainer).__name__}, has no {missing}; oversampling needs the "
            "GRPOTrainer of TRL 1.16 or one like it"
        )
    if getattr(trainer, "tools", None) or getattr(trainer, "environment_factories", None):
        raise InvalidOperationError(
            "the trainer has tools or environments, which answer only after a rollout_func has "
            "returned, so completions would be chosen before they are complete; leave out "
            "rollout_func or the tools"
        )


def sample(
    prompts: list[Any], trainer: Any, *, times: int = 1, max_samples: int | None = None
) -> Samples:
    """``times`` completions for each of ``prompts`` [N]: [times * N], all prompts in turn.
    ``max_samples``: how many at a time, at least N; None for all."""
    is_training = trainer.model.training
    size = trainer.num_generations if is_training else trainer.num_generations_eval
    at_once = times if max_samples is None else max(1, max_samples // len(prompts))
    parts = []
    for done in range(0, times, at_once):
        repeated = prompts * min(at_once, times - done)
        prompt_ids, images, fields = trainer._tokenize_prompts(repeated)
        ids, logprobs = trainer._generate_single_turn(prompt_ids, images, fields, size)
        parts.append(Samples(repeated, list(prompt_ids), ids, logprobs))
    return Samples(
        [prompt for part in parts for prompt in part.prompts],
        [ids for part in parts for ids in part.prompt_ids],
        [ids for part in parts for ids in part.completion_ids],
        None
        if any(part.logprobs is None for part in parts)
        else [found for part in parts for found in part.logprobs or ()],
    )


def completions_of(samples: Samples, trainer: Any) -> list[Any]:
    """Texts, or lists of one message where prompts are messages: what TRL gives to rewards."""
    if not isinstance(samples.prompts[0], list):
        return _texts(samples, trainer)
    tokenizer = trainer._tokenizer
    parse = getattr(sys.modules.get("trl.chat_template_utils"), "parse_response", None)
    is_parsed = any(getattr(tokenizer, f"response_{x}", None) for x in ("template", "schema"))
    if parse is None or not is_parsed:
        return [[{"role": "assistant", "content": text}] for text in _texts(samples, trainer)]
    pairs = zip(samples.completion_ids, samples.prompt_ids, strict=True)
    return [[parse(tokenizer, ids, prefix=prefix)] for ids, prefix in pairs]


def _texts(samples: Samples, trainer: Any) -> list[str]:
    decode = trainer.processing_class.batch_decode
    return list(decode(samples.completion_ids, skip_special_tokens=True))


def groups_of(prompts: Sequence[Any], largest: int) -> Iterator[range]:
    """Runs of equal prompts, as TRL repeats them, of at most ``largest``. A process may have part
    of a group."""
    start = 0
    for at in range(1, len(prompts) + 1):
        if at == len(prompts) or at - start == largest or prompts[at] != prompts[start]:
            yield range(start, at)
            start = at
