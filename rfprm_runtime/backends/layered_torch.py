"""The reference network a layer at a time, for models larger than the memory.

All rows of a batch go through one layer after another, so only that layer's weights are in memory,
beside the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.backends.torch import DecoderLayer, PRMNetwork, describe
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.rows import ALL_ROWS_AT_ONCE, TokenBatch, TokenRow, rows_of


@dataclass
class _Row:
    """A row on its way through the layers."""

    row: TokenRow
    hidden: Tensor
    """[1, length, hidden_size]; after the last layer the marker rows alone."""


class LayeredTorch:
    """The network in float32 on a CPU, all rows of a call at once."""

    limits = ALL_ROWS_AT_ONCE

    def __init__(
        self,
        shape: Backbone,
        head: Head,
        weights: Mapping[str, NDArray[np.float32]],
        walk: Walk | None = None,
    ) -> None:
        """``weights``: by Hugging Face's names, each asked for once a run, in the order of use."""
        self.description = f"{describe(torch.device('cpu'), 'float32')}, a layer at a time"
        self.walk = walk or Walk()
        self._shape, self._head, self._weights = shape, head, weights

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        with torch.inference_mode():
            rows = self._embedded(rows_of(batch))
            longest = max(one.row.num_tokens for one in rows)
            cos, sin = map(torch.from_numpy, rotary_tables(longest, self._shape))
            for index in range(self._shape.num_layers):
                self._run_layer(index, rows, cos, sin)
                self.walk.reached(index + 1, self._shape.num_layers)
            return self._logits(rows)

    def close(self) -> None:
        pass  # between runs it holds no weights

    def _embedded(self, rows: Sequence[TokenRow]) -> list[_Row]:
        table = self._weights["model.embed_tokens.weight"]
        return [_Row(row, torch.from_numpy(table[row.token_ids[None]])) for row in rows]

    def _run_layer(self, index: int, rows: Sequence[_Row], cos: Tensor, sin: Tensor) -> None:
        """``cos`` and ``sin``: of the longest row."""
        with torch.device("meta"):
            empty = DecoderLayer(self._shape)
        layer = self._filled(empty, f"model.layers.{index}.")
        for one in rows:
            self.walk.check()
            length = one.row.num_tokens
            one.hidden = layer.attend(one.hidden, cos[:length], sin[:length], None)
            if index == self._shape.num_layers - 1:
                one.hidden = one.hidden[0, torch.from_numpy(one.row.marker_positions)]
            one.hidden = layer.feed_forward(one.hidden)

    def _logits(self, rows: Sequence[_Row]) -> NDArray[np.float32]:
        with torch.device("meta"):
            empty = PRMNetwork(self._shape.model_copy(update={"num_layers": 1}), self._head)
        norm = self._filled(empty.model.norm, "model.norm.")
        score = self._filled(empty.score, "score.")
        return np.concatenate([score(norm(one.hidden)).numpy() for one in rows])

    def _filled(self, module: nn.Module, prefix: str) -> Any:
        """``module`` with its weights in the places of the empty ones."""
        names = [name.removeprefix(prefix) for name in self._weights if name.startswith(prefix)]
        state = {name: torch.from_numpy(self._weights[prefix + name]) for name in names}
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval()
