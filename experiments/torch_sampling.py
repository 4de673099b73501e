"""Samples from a decoder, thousands of rows at a time on a GPU, with torch alone.

A pool of solutions needs throughput and no server: all rows decode together, a row that has ended
makes room for the next prompt, and a prompt that several rows share is computed once. Knows token
ids; knows no text.
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
_FULL = 7 / 8
"""New prompts come in when fewer of the places than this are taken."""
_KEEP = 0.7
"""When no prompt is left, the rows move together as soon as fewer than this still decode."""
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
        """``dtype``: by default bfloat16 where the device multiplies it fast. ``max_rows``: that
        decode together; their cache takes 2 · layers · KV heads · head size numbers a token and row
        (28 KB for Qwen2.5-1.5B in 16 bits)."""
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

        ``ends``: bool [vocab_size], the tokens that end a continuation. ``on_done`` is called now
        and then with the number of continuations that have ended, and of all.
        """
        if not prompts:
            return []
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), *prompts[row]))
        with torch.inference_mode():
            rows = _Rows(self, [prompts[row] for row in order], settings, ends, generator)
            found = dict(zip(order, rows.run(on_done), strict=True))
        return [found[row] for row in range(len(prompts))]

    def prefill(self, token_ids: Tensor, cache: list[Tensor]) -> Tensor:
        """Run right-padded prompts [rows, length] and fill ``cache``, which has as many rows; the
        hidden states [rows, length, hidden] before the final norm."""
        rows, length = token_ids.shape
        cos, sin = self._tables(length)
        hidden = F.embedding(token_ids, self._embedding)
        for layer, kept in zip(self._layers, cache, strict=True):
            query, key, value = self._project(layer, hidden)
            query, key = (rotate(x.transpose(1, 2), cos, sin) for x in (query, key))
            value = value.transpose(1, 2)
            kept[0, :, :, :length] = key
            kept[1, :, :, :length] = value
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


class _Rows:
    """The rows that decode together, each in a place of the cache."""

    def __init__(
        self,
        model: TokenSampler,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        ends: Tensor,
        generator: torch.Generator | None,
    ) -> None:
        self._model, self._settings, self._ends = model, settings, ends.to(model.device)
        self._generator = generator
        self._prompts, self._num_begun = prompts, 0
        places = min(model.max_rows, len(prompts))
        longest = max(map(len, prompts)) + settings.max_tokens
        self._cache = model.empty_cache(places, -(-longest // _SPAN) * _SPAN)
        for kept in self._cache:
            kept.zero_()  # masked, but NaN times 0 would stay NaN
        nothing = torch.zeros(places, dtype=torch.long, device=model.device)
        self._rows = nothing - 1
        """Of each place the number of its prompt, -1 once that has ended."""
        self._tokens, self._positions, self._left = nothing, nothing.clone(), nothing.clone()
        """The token to run next, its position, and how many more may be drawn."""
        self._longest = 0
        """At least the largest position; the device is not asked at every step."""
        self._drawn: list[tuple[Tensor, Tensor, Tensor]] = []
        self._token_ids: list[list[int]] = [[] for _ in prompts]
        self._logprobs = [0.0] * len(prompts)

    def run(self, on_done: Callable[[int, int], None]) -> list[Sampled]:
        while True:
            taken = self._rows >= 0
            num_taken = int(taken.sum())
            num_waiting = len(self._prompts) - self._num_begun
            on_done(self._num_begun - num_taken, len(self._prompts))
            if num_waiting and num_taken < _FULL * len(taken):
                self._fill((~taken).nonzero()[:num_waiting, 0])
            elif not num_taken:
                break
            elif not num_waiting and num_taken < _KEEP * len(taken):
                self._move_together(taken.nonzero()[:, 0])
            self._longest = int(self._positions.max())
            for _ in range(_CHECK_EVERY):
                self._step()
            self._collect()
        ends = self._ends.tolist()
        return [
            Sampled(ids, total / len(ids), ends[ids[-1]])
            for ids, total in zip(self._token_ids, self._logprobs, strict=True)
        ]

    def _fill(self, places: Tensor) -> None:
        """Begin the next prompts in ``places``."""
        begun = self._prompts[self._num_begun :][: len(places)]
        unique = list(dict.fromkeys(map(tuple, begun)))
        numbers = {prompt: number for number, prompt in enumerate(unique)}
        device = self._model.device
        of_row = torch.tensor([numbers[tuple(prompt)] for prompt in begun], device=device)
        longest = max(map(len, unique))
        logits: list[Tensor] = []
        at_once = max(1, _PREFILL_TOKENS // longest)
        for start in range(0, len(unique), at_once):
            part = unique[start : start + at_once]
            cache = self._model.empty_cache(len(part), longest)
            ids = torch.zeros((len(part), longest), dtype=torch.long)
            for row, prompt in enumerate(part):
                ids[row, : len(prompt)] = torch.tensor(prompt)
            hidden = self._model.prefill(ids.to(device), cache)
            last = torch.tensor([len(prompt) - 1 for prompt in part], device=device)
            logits.append(self._model.logits(hidden[torch.arange(len(part), device=device), last]))
            here = ((of_row >= start) & (of_row < start + len(part))).nonzero()[:, 0]
            for kept, new in zip(self._cache, cache, strict=True):
                kept[:, places[here], :, :longest] = new[:, of_row[here] - start]
        self._rows[places] = self._num_begun + torch.arange(len(begun), device=device)
        self._positions[places] = torch.tensor([len(prompt) for prompt in begun], device=device)
        self._left[places] = self._settings.max_tokens
        self._num_begun += len(begun)
        self._take(torch.cat(logits)[of_row], places)

    def _step(self) -> None:
        span = min(-(-(self._longest + 1) // _SPAN) * _SPAN, self._cache[0].shape[3])
        logits = self._model.decode(self._tokens, self._positions, self._cache, span)
        self._positions = self._positions + 1
        self._longest += 1
        self._take(logits, torch.arange(len(self._rows), device=logits.device))

    def _take(self, logits: Tensor, places: Tensor) -> None:
        """Draw the next token of the rows in ``places``, which may have ended."""
        tokens, logprobs = _draw(logits, self._settings, self._generator)
        rows = self._rows[places]
        self._drawn.append((rows, tokens, logprobs))
        goes_on = (rows >= 0) & ~self._ends[tokens] & (self._left[places] > 1)
        self._rows[places] = torch.where(goes_on, rows, -1)
        self._tokens[places] = tokens
        self._left[places] -= 1
        # An empty place stays at the beginning, where every span has room for it.
        self._positions[places] = torch.where(goes_on, self._positions[places], 0)

    def _collect(self) -> None:
        for step in self._drawn:
            for row, token, logprob in zip(*(part.tolist() for part in step), strict=True):
                if row >= 0:
                    self._token_ids[row].append(token)
                    self._logprobs[row] += logprob
        self._drawn.clear()

    def _move_together(self, places: Tensor) -> None:
        self._rows, self._tokens = self._rows[places], self._tokens[places]
        self._positions, self._left = self._positions[places], self._left[places]
        for index, kept in enumerate(self._cache):
            self._cache[index] = kept[:, places]


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
