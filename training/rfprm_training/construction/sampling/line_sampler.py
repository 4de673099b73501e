"""A causal language model that continues many texts at once. Knows tokens, no steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from rfprm_export.base_model import BaseModel, config_fields, read_base_model
from rfprm_export.named_base import FolderBase, GgufBase, base_of_config


class SampledLine(NamedTuple):
    """The sampled rest of a line."""

    text: str
    num_tokens: int
    is_whole: bool
    """Whether the line ended within the token limit."""


class LineSampler:
    """Samples the rest of the line after texts with a common ``preamble``, which is computed
    once."""

    def __init__(
        self,
        base: GgufBase | FolderBase,
        folder: Path,
        preamble: str,
        *,
        device: str = "cpu",
    ) -> None:
        """A relative path in ``base`` is relative to ``folder``. Raises
        :class:`~rfprm_export.ExportError` if the model is missing."""
        path = base_of_config(base, folder)
        self.tokenizer: Tokenizer = read_base_model(path).tokenizer
        self._device = torch.device(device)
        self._model: Any = causal_lm(path).to(self._device).eval()
        # transformers renamed the past in 5.24.
        arguments = inspect.signature(self._model.forward).parameters
        self._past_name = "cache" if "cache" in arguments else "past_key_values"
        ids = self._ids(preamble)
        with torch.inference_mode():
            outputs = self._model(
                torch.tensor([ids], device=self._device), logits_to_keep=1, use_cache=True
            )
        self._preamble_length = len(ids)
        self._preamble: Any = outputs[self._past_name]

    def sample(
        self,
        texts: Sequence[str],
        *,
        count: int,
        temperature: float,
        max_tokens: int,
        generator: torch.Generator,
    ) -> list[list[SampledLine]]:
        """``count`` continuations of each text, up to the end of the line."""
        rows = [self._ids(text) for text in texts]
        length = max(map(len, rows))
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=self._device)
        known = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])
        known = known.to(self._device)
        with torch.inference_mode():
            found = self._continue(ids, known, count, temperature, max_tokens, generator)
        lines = [self._line(row) for row in found]
        return [lines[start : start + count] for start in range(0, len(lines), count)]

    def _continue(
        self,
        ids: Tensor,
        known: Tensor,
        count: int,
        temperature: float,
        max_tokens: int,
        generator: torch.Generator,
    ) -> list[list[int]]:
        # Each text is computed once; its past is repeated for its continuations.
        past = copy.deepcopy(self._preamble)
        past.batch_repeat_interleave(len(ids))
        before = torch.ones(len(ids), self._preamble_length, dtype=known.dtype, device=self._device)
        mask = torch.cat([before, known], dim=1)
        logits, past = self._step(ids, mask, past)
        past.batch_repeat_interleave(count)
        mask, logits = mask.repeat_interleave(count, 0), logits.repeat_interleave(count, 0)
        found: list[list[int]] = [[] for _ in range(len(mask))]
        unfinished = list(range(len(mask)))
        for _ in range(max_tokens):
            chances = torch.softmax(logits.float().cpu() / temperature, dim=-1)
            drawn = torch.multinomial(chances, 1, generator=generator)
            for row, token in zip(unfinished, drawn.flatten().tolist(), strict=True):
                found[row].append(token)
            kept = [i for i, row in enumerate(unfinished) if not self._ends_line(found[row][-1])]
            if not kept:
                break
            if len(kept) < len(unfinished):  # finished lines cost nothing more
                index = torch.tensor(kept, device=self._device)
                unfinished = [unfinished[i] for i in kept]
                drawn, mask = drawn[kept], mask[index]
                past.batch_select_indices(index)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            logits, past = self._step(drawn.to(self._device), mask, past)
        return found

    def _ends_line(self, token: int) -> bool:
        return "\n" in self.tokenizer.decode([token])

    def _step(self, ids: Tensor, mask: Tensor, past: Any) -> tuple[Tensor, Any]:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        outputs = self._model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            logits_to_keep=1,
            use_cache=True,
            **{self._past_name: past},
        )
        return outputs.logits[:, -1], outputs[self._past_name]

    def _line(self, tokens: list[int]) -> SampledLine:
        line, end, _ = self.tokenizer.decode(tokens).partition("\n")
        return SampledLine(line, len(tokens), bool(end))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def causal_lm(path: Path) -> Any:
    """The language model at ``path`` as a transformers model, in the float type of its config.

    transformers never sees the folder: it would also follow ``auto_map``, adapters, kernels and
    pickles, which name code and places elsewhere.
    """
    model = read_base_model(path)
    return language_model(model).to(getattr(torch, model.dtype))


def language_model(weights: BaseModel) -> Any:
    """A base model as a transformers model, in float32."""
    kind, config = _kind_and_config(weights)
    model = kind(config)
    state = {name: torch.tensor(array) for name, array in weights.weights.items()}
    # With tied embeddings the weights have no output layer of their own.
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    return model


def _kind_and_config(weights: BaseModel) -> tuple[Any, Any]:
    import transformers

    shape = weights.backbone
    fields: dict[str, Any] = {
        **config_fields(shape),
        "head_dim": shape.head_dim,
        "max_position_embeddings": weights.max_positions,
        "tie_word_embeddings": "lm_head.weight" not in weights.weights,
    }
    if shape.qkv_bias and not shape.output_bias:
        return transformers.Qwen2ForCausalLM, transformers.Qwen2Config.from_dict(fields)
    fields["attention_bias"] = shape.output_bias
    if shape.qk_norm:
        return transformers.Qwen3ForCausalLM, transformers.Qwen3Config.from_dict(fields)
    fields["mlp_bias"] = shape.mlp_bias
    return transformers.LlamaForCausalLM, transformers.LlamaConfig.from_dict(fields)
