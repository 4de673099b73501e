"""Keys and values that rows continue from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NOWHERE = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class TorchBlock:
    """Keys and values of some tokens: [layers, tokens, 2 · kv_heads · head_dim], keys first."""

    content: Tensor

    @property
    def num_tokens(self) -> int:
        return int(self.content.shape[1])

    @property
    def num_bytes(self) -> int:
        return self.content.numel() * self.content.element_size()


@dataclass(frozen=True, eq=False)
class TorchPast:
    """A :class:`~rfprm_runtime.engine.rows.Past` of blocks, one for each extension that made it."""

    blocks: tuple[TorchBlock, ...]

    @property
    def num_tokens(self) -> int:
        return sum(block.num_tokens for block in self.blocks)


class JoinedPasts:
    """The pasts of all rows of a pass end to end, each distinct block once."""

    def __init__(self, pasts: Sequence[TorchPast | None]) -> None:
        self._blocks = {id(block): block for past in pasts if past for block in past.blocks}
        begins: dict[int, int] = {}
        self.num_tokens = 0
        for key, block in self._blocks.items():
            begins[key] = self.num_tokens
            self.num_tokens += block.num_tokens
        self.places: list[NDArray[np.int64]] = [
            np.concatenate(
                [np.arange(begins[id(b)], begins[id(b)] + b.num_tokens) for b in past.blocks]
            )
            if past
            else _NOWHERE
            for past in pasts
        ]
        """For each row, where the tokens of its past are, in order."""

    @cached_property
    def content(self) -> Tensor | None:
        """[layers, num_tokens, 2 · kv_heads · head_dim]; None without pasts."""
        if not self._blocks:
            return None
        contents = [block.content for block in self._blocks.values()]
        return contents[0] if len(contents) == 1 else torch.cat(contents, dim=1)
