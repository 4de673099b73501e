"""A model without weights that keeps pasts, and counts what it computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rfprm_runtime import BackendError
from rfprm_runtime.backends.fake import FakeBackend
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenBatch


class _Page:
    num_bytes = 64

    def __init__(self, token_ids: np.ndarray) -> None:
        self.token_ids = token_ids


class _Past:
    def __init__(self, blocks: tuple[_Page, ...]) -> None:
        self.blocks = blocks
        self.num_tokens = sum(len(block.token_ids) for block in blocks)


class CountingBackend(FakeBackend):
    """The fake model with a cache: a past is the tokens themselves. Counts what it runs."""

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, limits=BackendLimits(max_batch_tokens=64))
        self.num_tokens = 0
        self.passes: list[int] = []
        self.fail_after: int | None = None

    def extend(self, extensions: Sequence[Extension], threads: int = 1) -> list[Extended]:
        self.passes.append(len(extensions))
        if self.fail_after is not None and len(self.passes) > self.fail_after:
            raise BackendError("out of luck")
        results = []
        for item in extensions:
            blocks = () if item.past is None else item.past.blocks
            before = [block.token_ids for block in blocks]  # type: ignore[attr-defined]
            ids = np.concatenate([*before, item.token_ids])
            self.num_tokens += len(item.token_ids)
            markers = item.marker_positions + item.num_past_tokens
            logits = self.run(TokenBatch(ids[None], np.array([len(ids)]), markers))
            past = _Past((*blocks, _Page(item.token_ids))) if item.keep else None  # type: ignore[arg-type]
            results.append(Extended(logits, past))
        return results
