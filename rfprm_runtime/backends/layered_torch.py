"""The reference network a layer at a time, for models larger than the memory.

It is asked twice: the first time it only takes down the batches, then it runs all of them through
one layer after another, and the second time it answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rfprm_runtime.artifact.manifest import Backbone, Head
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.backends.torch import DecoderLayer, PRMNetwork, describe
from rfprm_runtime.engine.rows import BackendLimits, TokenBatch
from rfprm_runtime.errors import BackendError

_Key = tuple[tuple[int, ...], bytes, bytes]


@dataclass
class _Row:
    """A batch on its way through the layers."""

    batch: TokenBatch
    hidden: Tensor
    """[batch, length, hidden_size]; after the last layer the marker rows alone."""


class LayeredTorch:
    """A backend that answers only what it was asked before :meth:`compute`."""

    limits = BackendLimits()

    def __init__(
        self, shape: Backbone, head: Head, weights: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """``weights``: by Hugging Face's names, each asked for once, in the order of use."""
        self.description = f"{describe(torch.device('cpu'), 'float32')}, a layer at a time"
        self._shape, self._head, self._weights = shape, head, weights
        self._asked: dict[_Key, TokenBatch] = {}
        self._answers: dict[_Key, NDArray[np.float32]] = {}

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        key = _key(batch)
        if key in self._answers:
            return self._answers[key]
        if self._answers:
            raise BackendError(
                "the reference network was asked for another batch than before; export again"
            )
        self._asked[key] = batch
        return np.zeros((len(batch.marker_positions), self._head.num_labels), np.float32)

    def compute(self) -> None:
        """Run what was asked: the weights of one layer in memory, the activations of all rows."""
        with torch.inference_mode():
            rows = self._embedded()
            for index in range(self._shape.num_layers):
                self._run_layer(index, rows)
            for key, logits in zip(self._asked, self._logits(rows), strict=True):
                self._answers[key] = logits
        self._asked.clear()

    def close(self) -> None:
        self._asked.clear()
        self._answers.clear()

    def _embedded(self) -> list[_Row]:
        table = self._weights["model.embed_tokens.weight"]
        return [
            _Row(batch, torch.from_numpy(table[batch.token_ids])) for batch in self._asked.values()
        ]

    def _run_layer(self, index: int, rows: Sequence[_Row]) -> None:
        with torch.device("meta"):
            empty = DecoderLayer(self._shape)
        layer = self._filled(empty, f"model.layers.{index}.")
        for row in rows:
            tables = rotary_tables(row.hidden.shape[1], self._shape)
            cos, sin = map(torch.from_numpy, tables)
            row.hidden = layer.attend(row.hidden, cos, sin, None)
            if index == self._shape.num_layers - 1:
                marked = torch.from_numpy(row.batch.marker_positions)
                row.hidden = row.hidden.reshape(-1, self._shape.hidden_size)[marked]
            row.hidden = layer.feed_forward(row.hidden)

    def _logits(self, rows: Sequence[_Row]) -> Iterator[NDArray[np.float32]]:
        with torch.device("meta"):
            empty = PRMNetwork(self._shape.model_copy(update={"num_layers": 1}), self._head)
        norm = self._filled(empty.model.norm, "model.norm.")
        score = self._filled(empty.score, "score.")
        for row in rows:
            logits: NDArray[np.float32] = score(norm(row.hidden)).numpy()
            yield logits

    def _filled(self, module: nn.Module, prefix: str) -> Any:
        """``module`` with its weights in the places of the empty ones."""
        names = [name.removeprefix(prefix) for name in self._weights if name.startswith(prefix)]
        state = {name: torch.from_numpy(self._weights[prefix + name]) for name in names}
        module.load_state_dict(state, strict=True, assign=True)
        return module.eval()


def _key(batch: TokenBatch) -> _Key:
    ids = batch.token_ids
    return ids.shape, ids.tobytes(), batch.marker_positions.tobytes()
