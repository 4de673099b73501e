"""What a session holds, and the past that is kept for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.engine.rows import Block, Past
from rfprm_runtime.types import Float32Array


@dataclass(frozen=True, eq=False)
class Written:
    """A session's content. Replaced and never changed, so that forks can share it."""

    steps: tuple[str, ...]
    step_scores: Float32Array
    token_ids: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Versions:
    """A session's content before and after a call. The sessions of the call share ``is_done``,
    which is empty until all of them are extended: an interrupt finds all extended or none."""

    before: Written
    after: Written
    is_done: list[bool]


@dataclass(frozen=True, eq=False)
class KeptPast:
    """A past and the tokens it is of. Those may be more than a session has, or others: an interrupt
    can come between a pass and the session that it extends."""

    past: Past
    token_ids: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        return self.past.num_tokens

    @property
    def blocks(self) -> Sequence[Block]:
        return self.past.blocks

    def begins(self, written: Written) -> bool:
        """Whether the session's tokens begin with the past's."""
        begin = written.token_ids[: len(self.token_ids)]
        return np.array_equal(begin, self.token_ids)
