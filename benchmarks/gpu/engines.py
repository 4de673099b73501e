"""Ours and its peer: rows in, the probability at each marker out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from benchmarks.gpu.workloads import Search
from rfprm_export.base_model import config_fields
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.backends.packed_torch import PackedTorchBackend
from rfprm_runtime.backends.torch import PRMNetwork
from rfprm_runtime.engine.engine import Engine as RuntimeEngine
from rfprm_runtime.engine.rows import (
    BackendLimits,
    Extended,
    Extension,
    Past,
    TokenRow,
    pad_batch,
    plan_batches,
)

Scores = list[NDArray[np.float64]]
BATCH_TOKENS = 65_536
"""Padded tokens of a batch of transformers."""
MAX_POSITIONS = 32_768


class Packed:
    """The path of the product from token ids on: prefixes planned, passes run."""

    def __init__(self, backend: PackedTorchBackend) -> None:
        self._engine = RuntimeEngine(backend)

    def __call__(self, rows: Sequence[TokenRow]) -> Scores:
        items = [Extension(row.token_ids, row.marker_positions) for row in rows]
        return [probability(extended.logits) for extended in self.extend(items)]

    def search(self, search: Search) -> Scores:
        """Of every round, only the new steps, each after the past of its parent."""
        root = Extension(search.question, np.zeros(0, np.int64), keep=True)
        pasts: list[Past | None] = [self.extend([root])[0].past]
        found: Scores = []
        for parents, steps in search.rounds:
            last = np.array([steps.shape[1] - 1])
            items = [
                Extension(step, last, pasts[parent], keep=True)
                for parent, step in zip(parents, steps, strict=True)
            ]
            done = self.extend(items)
            pasts = [extended.past for extended in done]
            found.extend(probability(extended.logits) for extended in done)
        return found

    def extend(self, items: Sequence[Extension]) -> list[Extended]:
        return self._engine.run(items)


class Transformers:
    """As its users score: bfloat16, sorted and padded batches, the head on every token."""

    def __init__(self, network: PRMNetwork, shape: Backbone, device: str, dtype: str) -> None:
        make_config: Any = transformers.Qwen2Config
        make_model: Any = transformers.Qwen2ForTokenClassification
        config = make_config(
            **config_fields(shape), num_labels=2, tie_word_embeddings=False, use_cache=False
        )
        config.max_position_embeddings = MAX_POSITIONS
        with torch.device("meta"):
            model = make_model(config)
        model.load_state_dict(
            {name: x.to(device, getattr(torch, dtype)) for name, x in network.state_dict().items()},
            assign=True,
        )
        # Buffers are not in the state dict and were left without values.
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
        self._model, self._device = model.eval(), device

    def __call__(self, rows: Sequence[TokenRow]) -> Scores:
        found: dict[int, NDArray[np.float64]] = {}
        limits = BackendLimits(max_batch_size=256, max_batch_tokens=BATCH_TOKENS)
        for batch in plan_batches([row.num_tokens for row in rows], limits):
            logits = self._run([rows[index] for index in batch])
            found.update(zip(batch, map(probability, logits), strict=True))
        return [found[index] for index in range(len(rows))]

    def search(self, search: Search) -> Scores:
        """Every round scores its branches from the beginning."""
        return [scores for rows in search.whole_rows() for scores in self(rows)]

    def _run(self, rows: list[TokenRow]) -> Iterable[NDArray[np.float32]]:
        padded = pad_batch(rows)
        mask = np.arange(padded.token_ids.shape[1]) < padded.lengths[:, None]
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.from_numpy(padded.token_ids).to(self._device),
                attention_mask=None
                if mask.all()
                else torch.from_numpy(mask).long().to(self._device),
            ).logits
        wide = logits.float().cpu().numpy()
        return [of_row[row.marker_positions] for of_row, row in zip(wide, rows, strict=True)]


def probability(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[num_markers] of logits [num_markers, 2]."""
    wide = logits.astype(np.float64)
    result: NDArray[np.float64] = 1 / (1 + np.exp(wide[:, 0] - wide[:, 1]))
    return result
