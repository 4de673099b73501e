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

from experiments.torch_decoder import Decoder
from rfprm_export.base_model import BaseModel

_SPAN = 64
"""Attention reads the cache up to a multiple of this, so that it meets few different shapes."""
_CHECK_EVERY = 8
"""Tokens between two looks at which rows have ended: a look waits for the device."""
_FULL = 7 / 8
"""New prompts come in when fewer of the places than this are taken."""
_KEEP = 0.7
"""When no prompt is left, the rows move together as soon as fewer than this still decode."""
_GPU_PREFILL_TOKENS = 32_768
_CPU_PREFILL_TOKENS = 2048
"""Of prompts at once. A CPU gains nothing by more, and fetches fresh memory."""
_SHORTEST_PREFIX = 32
"""A shorter common beginning is computed with every prompt: sharing it would save nothing."""
_CHUNK = 128
"""Logits whose largest is looked for first, when the best tokens of a vocabulary are chosen."""


@dataclass(frozen=True)
class SamplingSettings:
    temperature: float = 0.8
    """0 is greedy. Of all prompts, unless ``sample`` has one for each."""
    top_p: float = 0.95
    top_k: int | None = 50
    """None: of the whole vocabulary, for which ``top_p`` must be 1."""
    max_tokens: int = 320

    def __post_init__(self) -> None:
        if self.top_k is None and self.top_p != 1:
            raise ValueError(f"top_p is {self.top_p}, expected 1 without a top_k")


@dataclass(frozen=True)
class Sampled:
    """What followed a prompt."""

    token_ids: list[int]
    """With the token that ended it, if one did."""
    mean_logprob: float
    """Of a token, by the model itself (temperature 1, whole vocabulary)."""
    ended: bool
    """Whether it met an end; otherwise it was cut off at ``max_tokens``."""


class TokenSampler:
    """Continues prompts."""

    def __init__(
        self,
        base: BaseModel,
        *,
        device: str | torch.device,
        dtype: torch.dtype | None = None,
        max_rows: int = 2048,
    ) -> None:
        """``device``, ``dtype``: as of :class:`Decoder`. ``max_rows``: that decode together; their
        cache takes 2 · layers · KV heads · head size numbers a token and row, 28 KB for
        Qwen2.5-1.5B in 16 bits."""
        self.decoder, self.max_rows = Decoder(base, device=device, dtype=dtype), max_rows

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
                self.decoder,
                min(self.max_rows, len(prompts)),
                [prompts[row] for row in order],
                settings,
                torch.tensor([heat[row] for row in order], device=self.decoder.device),
                ends,
                generator,
            )
            found = dict(zip(order, rows.run(on_done), strict=True))
        return [found[row] for row in range(len(prompts))]


class _Rows:
    """The rows that decode together, each in a place of the cache."""

    def __init__(
        self,
        model: Decoder,
        num_places: int,
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
        longest = max(map(len, self._prompts)) + settings.max_tokens
        self._cache = model.empty_cache(num_places, -(-longest // _SPAN) * _SPAN)
        for kept in self._cache:
            kept.zero_()  # masked, but NaN times 0 would stay NaN
        nothing = torch.zeros(num_places, dtype=torch.long, device=model.device)
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
        tokens_at_once = _CPU_PREFILL_TOKENS if device.type == "cpu" else _GPU_PREFILL_TOKENS
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


def _draw(
    logits: Tensor,
    temperatures: Tensor,
    settings: SamplingSettings,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [rows] and their log-probabilities float [rows] at temperature 1."""
    total = logits.logsumexp(-1)
    greedy = temperatures == 0
    if settings.top_k is None:
        shares = (logits / temperatures.masked_fill(greedy, 1)[:, None]).softmax(-1)
        drawn = _in_proportion(shares, generator)
        chosen = torch.where(greedy[:, None], logits.argmax(-1, keepdim=True), drawn)
        return chosen[:, 0], logits.gather(1, chosen)[:, 0] - total
    top, ids = _largest(logits, min(settings.top_k, logits.shape[-1]))
    shares = (top / temperatures.masked_fill(greedy, 1)[:, None]).softmax(-1)
    before = shares.cumsum(-1) - shares
    drawn = torch.multinomial(
        shares.masked_fill(before >= settings.top_p, 0), 1, generator=generator
    )
    chosen = drawn.masked_fill(greedy[:, None], 0)
    return ids.gather(1, chosen)[:, 0], top.gather(1, chosen)[:, 0] - total


def _in_proportion(shares: Tensor, generator: torch.Generator | None) -> Tensor:
    """``torch.multinomial`` of one over the vocabulary, which first draws a chunk: for each number
    that it may draw it draws a random one, and there are fewer of them."""
    rows, size = shares.shape
    if size % _CHUNK:
        return torch.multinomial(shares, 1, generator=generator)
    chunks = shares.view(rows, -1, _CHUNK)
    chunk = torch.multinomial(chunks.sum(-1), 1, generator=generator)
    inside = chunks.gather(1, chunk[:, :, None].expand(-1, -1, _CHUNK))[:, 0]
    return chunk * _CHUNK + torch.multinomial(inside, 1, generator=generator)


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
