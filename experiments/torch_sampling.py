"""Samples from a decoder, thousands of rows at a time on a GPU, with torch alone.

A pool of solutions needs throughput and no server: all rows decode together, a row that has ended
makes room for the next prompt, and what prompts share is computed once: the beginning of all
(instructions, examples), and prompts that several rows continue. Knows token ids; knows no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

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
_PREFILL_TOKENS = {"cpu": 2048}
"""Of prompts at once, by kind of device. A CPU gains nothing by more, and fetches fresh memory."""
_MANY_PREFILL_TOKENS = 32_768
_SHORTEST_PREFIX = 32
"""A shorter common beginning is computed with every prompt: sharing it would save nothing."""
_PACKED_FOR = 128
"""Rows that the layout of packed weights is best for."""
_CHUNK = 128
"""Logits whose largest is looked for first, when the best tokens of a vocabulary are chosen."""


@dataclass(frozen=True)
class SamplingSettings:
    temperature: float = 0.8
    """0 is greedy. Of all prompts, unless ``sample`` has one for each."""
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


class _Linear:
    """A linear map. On a CPU, oneDNN would bring the weights into its own layout at every call,
    which takes up to half of the time of a product with few rows; here it does so once."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        self._is_packed = on_cpu and is_fast_in_bfloat16(weight.device)
        self._bias, self._weight = bias, weight
        if self._is_packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR)

    def __call__(self, rows: Tensor) -> Tensor:
        if self._is_packed:
            linear: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
            return linear(rows, self._weight, self._bias, "none", [], "")
        return F.linear(rows, self._weight, self._bias)


@dataclass(frozen=True)
class _Layer:
    attention_norm: RMSNorm
    qkv: _Linear
    out: _Linear
    mlp_norm: RMSNorm
    gate_up: _Linear
    down: _Linear


_Cache = list[Tensor]
"""Keys and values of each layer, [2, rows, KV heads, length, head_dim]; a prefix has no rows."""


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

        def linear(prefix: str, parts: Sequence[str], *, bias: bool = False) -> _Linear:
            def joined(kind: str) -> Tensor:
                return torch.cat([tensor(f"{prefix}{part}_proj.{kind}") for part in parts])

            return _Linear(joined("weight"), joined("bias") if bias else None)

        self._layers = [
            _Layer(
                norm(f"{at}input_layernorm.weight"),
                linear(f"{at}self_attn.", "qkv", bias=self.shape.qkv_bias),
                linear(f"{at}self_attn.", "o"),
                norm(f"{at}post_attention_layernorm.weight"),
                linear(f"{at}mlp.", ("gate", "up")),
                linear(f"{at}mlp.", ("down",)),
            )
            for at in (f"model.layers.{index}." for index in range(self.shape.num_layers))
        ]
        self._embedding = tensor("model.embed_tokens.weight")
        tied = "lm_head.weight" not in base.weights
        self._head = _Linear(self._embedding if tied else tensor("lm_head.weight"))
        self._norm = norm("model.norm.weight")

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        ends: Tensor,
        temperatures: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
        on_done: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Sampled]:
        """One continuation of each prompt, in their order; equal prompts are computed once.

        ``ends``: bool [vocab_size], the tokens that end a continuation. ``temperatures``: one for
        each prompt. ``on_done`` is called now and then with the number of continuations that have
        ended, and of all.
        """
        if not prompts:
            return []
        heat = temperatures or [settings.temperature] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), *prompts[row]))
        with torch.inference_mode():
            rows = _Rows(
                self,
                [prompts[row] for row in order],
                settings,
                torch.tensor([heat[row] for row in order], device=self.device),
                ends,
                generator,
            )
            found = dict(zip(order, rows.run(on_done), strict=True))
        return [found[row] for row in range(len(prompts))]

    def prefix(self, token_ids: Sequence[int]) -> _Cache:
        """The cache of a beginning that all rows have."""
        cache = self.empty_cache(1, len(token_ids))
        if token_ids:
            self.prefill(torch.tensor([list(token_ids)], device=self.device), cache)
        return [kept[:, 0] for kept in cache]

    def prefill(self, token_ids: Tensor, cache: _Cache, prefix: _Cache | None = None) -> Tensor:
        """Run right-padded prompts [rows, length] after ``prefix`` and fill ``cache``, which has as
        many rows; the hidden states [rows, length, hidden] before the final norm."""
        rows, length = token_ids.shape
        before = prefix[0].shape[2] if prefix else 0
        cos, sin = (table[before:] for table in self._tables(before + length))
        visible = torch.ones(length, before + length, dtype=torch.bool, device=self.device)
        visible = visible.tril(before)
        groups = self.shape.num_heads // self.shape.num_kv_heads
        hidden = F.embedding(token_ids, self._embedding)
        for index, (layer, kept) in enumerate(zip(self._layers, cache, strict=True)):
            query, key, value = self._project(layer, hidden)
            query, key = (rotate(x.transpose(1, 2), cos, sin) for x in (query, key))
            kept[0, :, :, :length], kept[1, :, :, :length] = key, value.transpose(1, 2)
            seen = kept[:, :, :, :length]
            if prefix and before:
                first = prefix[index][:, None].expand(-1, rows, -1, -1, -1)
                seen = torch.cat((first, seen), dim=3)
            keys, values = seen.repeat_interleave(groups, 2)
            mixed = F.scaled_dot_product_attention(
                query,
                keys,
                values,
                attn_mask=visible if before else None,
                is_causal=not before,
            )
            hidden = self._after_attention(
                layer, hidden, mixed.transpose(1, 2).reshape(rows, length, -1)
            )
        return hidden

    def decode(
        self, tokens: Tensor, positions: Tensor, cache: _Cache, span: int, prefix: _Cache
    ) -> Tensor:
        """One token [rows] of each row at its own position [rows] after the ``prefix``, attending
        to that and to the first ``span`` places of the cache up to itself; logits float32
        [rows, vocab_size]."""
        rows, shape = len(tokens), self.shape
        before = prefix[0].shape[2]
        tables = self._tables(before + span)
        cos, sin = (table[before + positions][:, None] for table in tables)
        every = torch.arange(rows, device=self.device)
        visible = torch.arange(span, device=self.device) <= positions[:, None]
        visible = visible[:, None, None, :]
        hidden = F.embedding(tokens, self._embedding)
        for layer, kept, first in zip(self._layers, cache, prefix, strict=True):
            query, key, value = self._project(layer, hidden)
            kept[0, every, :, positions] = rotate(key, cos, sin)
            kept[1, every, :, positions] = value
            # The query heads that share a key head are its rows: nothing is repeated.
            grouped = rotate(query, cos, sin).view(rows, shape.num_kv_heads, -1, shape.head_dim)
            mixed = _attend(grouped, kept[:, :, :, :span], visible, first)
            hidden = self._after_attention(layer, hidden, mixed.reshape(rows, -1))
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head(self._norm(hidden)).float()

    def empty_cache(self, rows: int, length: int) -> _Cache:
        size = (2, rows, self.shape.num_kv_heads, length, self.shape.head_dim)
        return [torch.empty(size, dtype=self.dtype, device=self.device) for _ in self._layers]

    def _project(self, layer: _Layer, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        sizes = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        joined = layer.qkv(layer.attention_norm(hidden))
        heads = joined.view(*hidden.shape[:-1], sum(sizes), shape.head_dim)
        query, key, value = torch.split(heads, list(sizes), dim=-2)
        return query, key, value

    def _after_attention(self, layer: _Layer, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + layer.out(mixed)
        gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
        return hidden + layer.down(F.silu(gate) * up)

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
        temperatures: Tensor,
        ends: Tensor,
        generator: torch.Generator | None,
    ) -> None:
        self._model, self._settings, self._ends = model, settings, ends.to(model.device)
        self._generator = generator
        shared = _length_shared([prompt[:-1] for prompt in prompts])
        if shared < _SHORTEST_PREFIX:
            shared = 0
        self._prefix = model.prefix(prompts[0][:shared])
        self._prompts, self._num_begun = [prompt[shared:] for prompt in prompts], 0
        self._temperatures = temperatures
        places = min(model.max_rows, len(prompts))
        longest = max(map(len, self._prompts)) + settings.max_tokens
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
        tokens_at_once = _PREFILL_TOKENS.get(device.type, _MANY_PREFILL_TOKENS)
        at_once = max(1, tokens_at_once // longest)
        for start in range(0, len(unique), at_once):
            part = unique[start : start + at_once]
            cache = self._model.empty_cache(len(part), longest)
            ids = torch.zeros((len(part), longest), dtype=torch.long)
            for row, prompt in enumerate(part):
                ids[row, : len(prompt)] = torch.tensor(prompt)
            hidden = self._model.prefill(ids.to(device), cache, self._prefix)
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
        logits = self._model.decode(self._tokens, self._positions, self._cache, span, self._prefix)
        self._positions = self._positions + 1
        self._longest += 1
        self._take(logits, torch.arange(len(self._rows), device=logits.device))

    def _take(self, logits: Tensor, places: Tensor) -> None:
        """Draw the next token of the rows in ``places``, which may have ended."""
        rows = self._rows[places]
        # An empty place draws as the last prompt does; nothing is kept of it.
        heat = self._temperatures[rows]
        tokens, logprobs = _draw(logits, heat, self._settings, self._generator)
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


def _length_shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with. The first and the last by order share the fewest."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    )


def _attend(query: Tensor, kept: Tensor, visible: Tensor, prefix: Tensor) -> Tensor:
    """Attention of one token a row, [rows, KV heads, query heads a KV head, head_dim].

    ``kept`` [2, rows, KV heads, span, head_dim], ``prefix`` [2, KV heads, length, head_dim].
    """
    if not prefix.shape[2]:
        return F.scaled_dot_product_attention(query, kept[0], kept[1], attn_mask=visible)
    rows, kv_heads, _, size = query.shape
    # All rows meet the same prefix: for it they are the queries of one sequence.
    together = query.transpose(0, 1).reshape(1, kv_heads, -1, size)
    to_prefix, mass_of_prefix = _attend_with_mass(together, prefix[:, None])
    to_prefix = to_prefix.view(kv_heads, rows, -1, size).transpose(0, 1)
    mass_of_prefix = mass_of_prefix.view(kv_heads, rows, -1).transpose(0, 1)
    to_own, mass_of_own = _attend_with_mass(query, kept, visible)
    share = (mass_of_prefix - mass_of_own).sigmoid()[..., None]
    return torch.lerp(to_own.float(), to_prefix.float(), share).to(query.dtype)


def _attend_with_mass(
    query: Tensor, kept: Tensor, visible: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention, and the logsumexp of the scores of each query, by which two parts are joined."""
    hidden = None
    if visible is not None:
        hidden = torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, -torch.inf)
        hidden = hidden.expand(*query.shape[:3], -1)
    if query.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mixed, mass = flash(query, *kept, attn_mask=hidden)
        return mixed, mass
    scores = (query @ kept[0].mT).float() * query.shape[-1] ** -0.5
    scores = scores if hidden is None else scores + hidden
    mass = scores.logsumexp(-1)
    return (scores - mass[..., None]).exp().to(query.dtype) @ kept[1], mass


def _draw(
    logits: Tensor,
    temperatures: Tensor,
    settings: SamplingSettings,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [rows] and their log-probabilities float [rows] at temperature 1."""
    total = logits.logsumexp(-1)
    top, ids = _largest(logits, min(settings.top_k, logits.shape[-1]))
    greedy = temperatures == 0
    shares = (top / temperatures.masked_fill(greedy, 1)[:, None]).softmax(-1)
    before = shares.cumsum(-1) - shares
    drawn = torch.multinomial(
        shares.masked_fill(before >= settings.top_p, 0), 1, generator=generator
    )
    chosen = drawn.masked_fill(greedy[:, None], 0)
    return ids.gather(1, chosen)[:, 0], top.gather(1, chosen)[:, 0] - total


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``torch.topk`` over the vocabulary, which first finds the chunks that hold the largest."""
    rows, size = logits.shape
    if size % _CHUNK or size < 2 * count * _CHUNK:
        top, ids = logits.topk(count, dim=-1)
        return top, ids
    chunks = logits.view(rows, -1, _CHUNK)
    best = chunks.amax(-1).topk(count, dim=-1).indices
    inside = chunks.gather(1, best[:, :, None].expand(-1, -1, _CHUNK)).flatten(1)
    top, at = inside.topk(count, dim=-1)
    return top, best.gather(1, at // _CHUNK) * _CHUNK + at % _CHUNK
