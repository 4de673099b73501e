"""Samples from a decoder, thousands of rows at a time on a GPU, with torch alone.

A pool of solutions needs throughput and no server: all rows of a wave decode together, and a
prompt that several rows share is computed once. Knows token ids; knows no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rfprm_export.base_model import BaseModel
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.backends.torch import RMSNorm, rotate
from rfprm_training.learning.precision import is_fast_in_bfloat16

_SPAN = 64
"""Attention reads the cache up to a multiple of this, so that it meets few different shapes."""
_CHECK_EVERY = 8
"""Tokens between two looks at which rows have ended: a look waits for the device."""
_KEEP = 0.7
"""A wave moves together when fewer of its rows than this still decode."""
_PREFILL_TOKENS = 32_768


@dataclass(frozen=True)
class SamplingSettings:
    temperature: float = 0.8
    """0 is greedy."""
    top_p: float = 0.95
    top_k: int = 50
    max_tokens: int = 320


@dataclass(frozen=True)
class Sampled:
    """What followed a prompt."""

    token_ids: list[int]
    """With the token that ended it, if one did."""
    mean_logprob: float
    """Of a token, by the model itself (temperature 1, whole vocabulary)."""
    ended: bool
    """Whether it met an end; otherwise it was cut off at ``max_tokens``."""


@dataclass(frozen=True)
class _Layer:
    attention_norm: RMSNorm
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    mlp_norm: RMSNorm
    gate_up: Tensor
    down: Tensor


class TokenSampler:
    """A decoder of the Llama or Qwen2 family that continues prompts."""

    def __init__(
        self,
        base: BaseModel,
        *,
        device: str | torch.device,
        dtype: torch.dtype | None = None,
        max_rows: int = 2048,
    ) -> None:
        """``dtype``: by default bfloat16 where the device multiplies it fast. ``max_rows``: of a
        wave, whose cache takes 2 · layers · KV heads · head size numbers a token and row (28 KB for
        Qwen2.5-1.5B in 16 bits)."""
        self.shape: Backbone = base.backbone
        if self.shape.qk_norm or self.shape.output_bias or self.shape.mlp_bias:
            raise ValueError("the sampler knows decoders of the Llama and Qwen2 families")
        self.device, self.max_rows = torch.device(device), max_rows
        narrow = is_fast_in_bfloat16(self.device)
        self.dtype = dtype or (torch.bfloat16 if narrow else torch.float32)
        self._rotary: dict[int, tuple[Tensor, Tensor]] = {}

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(base.weights[name]).to(self.dtype).to(self.device)

        def norm(name: str) -> RMSNorm:
            made = RMSNorm(self.shape.hidden_size, self.shape.rms_norm_eps)
            made.weight = torch.nn.Parameter(tensor(name), requires_grad=False)
            return made

        def joined(prefix: str, parts: Sequence[str], kind: str) -> Tensor:
            return torch.cat([tensor(f"{prefix}{part}.{kind}") for part in parts])

        self._layers = [
            _Layer(
                norm(f"{at}input_layernorm.weight"),
                joined(f"{at}self_attn.", ("q_proj", "k_proj", "v_proj"), "weight"),
                joined(f"{at}self_attn.", ("q_proj", "k_proj", "v_proj"), "bias")
                if self.shape.qkv_bias
                else None,
                tensor(f"{at}self_attn.o_proj.weight"),
                norm(f"{at}post_attention_layernorm.weight"),
                joined(f"{at}mlp.", ("gate_proj", "up_proj"), "weight"),
                tensor(f"{at}mlp.down_proj.weight"),
            )
            for at in (f"model.layers.{index}." for index in range(self.shape.num_layers))
        ]
        self._embedding = tensor("model.embed_tokens.weight")
        tied = "lm_head.weight" not in base.weights
        self._head = self._embedding if tied else tensor("lm_head.weight")
        self._norm = norm("model.norm.weight")

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        ends: Tensor,
        generator: torch.Generator | None = None,
        on_done: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Sampled]:
        """One continuation of each prompt, in their order; equal prompts are computed once.

        ``ends``: bool [vocab_size], the tokens that end a continuation. ``on_done`` is called after
        each wave with the rows done and their number.
        """
        ends = ends.to(self.device)
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row]))
        found: dict[int, Sampled] = {}
        with torch.inference_mode():
            for start in range(0, len(order), self.max_rows):
                rows = order[start : start + self.max_rows]
                wave = _Wave(self, [prompts[row] for row in rows], settings, ends, generator)
                found.update(zip(rows, wave.run(), strict=True))
                on_done(len(found), len(prompts))
        return [found[row] for row in range(len(prompts))]

    def prefill(self, token_ids: Tensor, cache: list[Tensor], first_row: int) -> Tensor:
        """Run right-padded prompts [rows, length] and fill ``cache`` from ``first_row`` on; the
        hidden states [rows, length, hidden] before the final norm."""
        rows, length = token_ids.shape
        cos, sin = self._tables(length)
        hidden = F.embedding(token_ids, self._embedding)
        for layer, kept in zip(self._layers, cache, strict=True):
            query, key, value = self._project(layer, hidden)
            query, key = (rotate(x.transpose(1, 2), cos, sin) for x in (query, key))
            value = value.transpose(1, 2)
            kept[0, first_row : first_row + rows, :, :length] = key
            kept[1, first_row : first_row + rows, :, :length] = value
            groups = self.shape.num_heads // self.shape.num_kv_heads
            mixed = F.scaled_dot_product_attention(
                query,
                key.repeat_interleave(groups, 1),
                value.repeat_interleave(groups, 1),
                is_causal=True,
            )
            hidden = self._after_attention(
                layer, hidden, mixed.transpose(1, 2).reshape(rows, length, -1)
            )
        return hidden

    def decode(self, tokens: Tensor, positions: Tensor, cache: list[Tensor], span: int) -> Tensor:
        """One token [rows] of each row at its own position [rows], attending to the first ``span``
        places of the cache up to itself; logits float32 [rows, vocab_size]."""
        rows, shape = len(tokens), self.shape
        cos, sin = (table[positions][:, None] for table in self._tables(span))
        every = torch.arange(rows, device=self.device)
        visible = torch.arange(span, device=self.device) <= positions[:, None]
        visible = visible[:, None, None, :]
        hidden = F.embedding(tokens, self._embedding)
        for layer, kept in zip(self._layers, cache, strict=True):
            query, key, value = self._project(layer, hidden)
            kept[0, every, :, positions] = rotate(key, cos, sin)
            kept[1, every, :, positions] = value
            # The query heads that share a key head are its rows: nothing is repeated.
            grouped = rotate(query, cos, sin).view(rows, shape.num_kv_heads, -1, shape.head_dim)
            mixed = F.scaled_dot_product_attention(
                grouped, kept[0, :, :, :span], kept[1, :, :, :span], attn_mask=visible
            )
            hidden = self._after_attention(layer, hidden, mixed.reshape(rows, -1))
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self._norm(hidden), self._head).float()

    def empty_cache(self, rows: int, length: int) -> list[Tensor]:
        """Keys and values of each layer, [2, rows, KV heads, length, head_dim]."""
        size = (2, rows, self.shape.num_kv_heads, length, self.shape.head_dim)
        return [torch.empty(size, dtype=self.dtype, device=self.device) for _ in self._layers]

    def _project(self, layer: _Layer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        sizes = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        joined = F.linear(layer.attention_norm(hidden), layer.qkv, layer.qkv_bias)
        heads = joined.view(*hidden.shape[:-1], sum(sizes), shape.head_dim)
        query, key, value = torch.split(heads, list(sizes), dim=-2)
        return query, key, value

    def _after_attention(self, layer: _Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + F.linear(mixed, layer.out)
        gate, up = F.linear(layer.mlp_norm(hidden), layer.gate_up).chunk(2, dim=-1)
        return hidden + F.linear(F.silu(gate) * up, layer.down)

    def _tables(self, length: int) -> tuple[Tensor, Tensor]:
        if length not in self._rotary:
            cos, sin = map(torch.from_numpy, rotary_tables(length, self.shape))
            self._rotary[length] = cos.to(self.device, self.dtype), sin.to(self.device, self.dtype)
        return self._rotary[length]


class _Wave:
    """Rows that decode together. Rows that have ended leave when enough of them have."""

    def __init__(
        self,
        model: TokenSampler,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        ends: Tensor,
        generator: torch.Generator | None,
    ) -> None:
        self._model, self._settings, self._ends = model, settings, ends
        self._generator = generator
        self._num_rows = len(prompts)
        unique = {tuple(prompt): None for prompt in prompts}
        self._unique = [list(prompt) for prompt in unique]
        numbers = {prompt: number for number, prompt in enumerate(unique)}
        self._of_row = torch.tensor([numbers[tuple(p)] for p in prompts], device=model.device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self._positions = lengths  # of the token that comes next
        longest = max(map(len, prompts)) + settings.max_tokens
        self._length = -(-longest // _SPAN) * _SPAN

    def run(self) -> list[Sampled]:
        model, settings = self._model, self._settings
        logits, cache = self._prefilled()
        rows = torch.arange(self._num_rows, device=model.device)  # still in the wave
        ended = torch.zeros(self._num_rows, dtype=torch.bool, device=model.device)
        positions = self._positions
        drawn: list[tuple[Tensor, Tensor, Tensor]] = []
        for step in range(settings.max_tokens):
            tokens, logprobs = _draw(logits, settings, self._generator)
            drawn.append((torch.where(ended, -1, rows), tokens, logprobs))
            ended = ended | self._ends[tokens]
            if step + 1 == settings.max_tokens:
                break
            if (step + 1) % _CHECK_EVERY == 0:
                num_left = int((~ended).sum())
                if not num_left:
                    break
                if num_left < _KEEP * len(rows):
                    left = (~ended).nonzero()[:, 0]
                    rows, tokens, positions = rows[left], tokens[left], positions[left]
                    ended = ended[left]
                    for index, kept in enumerate(cache):
                        cache[index] = kept[:, left]
            span = -(-(self._longest_prompt + step + 1) // _SPAN) * _SPAN
            logits = model.decode(tokens, positions, cache, span)
            positions = positions + 1
        return self._collected(drawn)

    @property
    def _longest_prompt(self) -> int:
        return max(map(len, self._unique))

    def _prefilled(self) -> tuple[Tensor, list[Tensor]]:
        """The logits after each row's prompt, and the cache of the rows."""
        model = self._model
        num_unique, longest = len(self._unique), self._longest_prompt
        cache = model.empty_cache(num_unique, longest)
        at_once = max(1, _PREFILL_TOKENS // longest)
        logits: list[Tensor] = []
        for start in range(0, num_unique, at_once):
            part = self._unique[start : start + at_once]
            ids = torch.zeros((len(part), max(map(len, part))), dtype=torch.long)
            for row, prompt in enumerate(part):
                ids[row, : len(prompt)] = torch.tensor(prompt)
            hidden = model.prefill(ids.to(model.device), cache, start)
            last = torch.tensor([len(prompt) - 1 for prompt in part], device=model.device)
            every = torch.arange(len(part), device=model.device)
            logits.append(model.logits(hidden[every, last]))
        of_rows: list[Tensor] = []
        for index, kept in enumerate(cache):
            whole = kept.new_empty(
                (2, self._num_rows, *kept.shape[2:3], self._length, kept.shape[4])
            )
            whole[:, :, :, :longest] = kept[:, self._of_row]
            whole[:, :, :, longest:] = 0  # masked, but NaN times 0 would stay NaN
            of_rows.append(whole)
            cache[index] = kept.new_empty(0)
        return torch.cat(logits)[self._of_row], of_rows

    def _collected(self, drawn: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[Sampled]:
        tokens: list[list[int]] = [[] for _ in range(self._num_rows)]
        sums = [0.0] * self._num_rows
        for step in drawn:
            for row, token, logprob in zip(*(part.tolist() for part in step), strict=True):
                if row >= 0:
                    tokens[row].append(token)
                    sums[row] += logprob
        ends = self._ends.tolist()
        return [
            Sampled(of_row, total / len(of_row), ends[of_row[-1]])
            for of_row, total in zip(tokens, sums, strict=True)
        ]


def _draw(
    logits: Tensor, settings: SamplingSettings, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [rows] and their log-probabilities float [rows] at temperature 1."""
    total = logits.logsumexp(-1)
    top, ids = logits.topk(min(settings.top_k, logits.shape[-1]), dim=-1)
    if settings.temperature == 0:
        chosen = torch.zeros(len(ids), 1, dtype=torch.long, device=ids.device)
    else:
        shares = (top / settings.temperature).softmax(-1)
        before = shares.cumsum(-1) - shares
        chosen = torch.multinomial(
            shares.masked_fill(before >= settings.top_p, 0), 1, generator=generator
        )
    return ids.gather(1, chosen)[:, 0], top.gather(1, chosen)[:, 0] - total
