"""The protocol of an engine. This file and the worker import only numpy, because they also run in
the environment of a peer that cannot share ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass
class Row:
    """One trace, as tokens and as text. Peers get the tokens; we start from the text."""

    token_ids: np.ndarray  # [num_tokens]
    markers: np.ndarray  # [num_markers]
    is_whole: bool
    """Whether the last marker is the trajectory's, which has its own column of logits."""
    trace: dict[str, Any]  # question, steps, response
    calibrations: Sequence[tuple[float, float]] = ((1.0, 0.0), (1.0, 0.0))
    """Temperature and bias of the step scores and of the trajectory score."""

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Rewards [num_markers] from logits [num_markers, 2], calibrated as ours are."""
        columns = np.zeros(len(logits), int)
        columns[-1] = int(self.is_whole)
        own = logits[np.arange(len(logits)), columns].astype(np.float64)
        temperatures, biases = np.array(self.calibrations)[columns].T
        odds: np.ndarray = own / temperatures + biases
        return np.asarray(1 / (1 + np.exp(-odds)))


class Engine(Protocol):
    versions: str

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        """The scores of each row."""
        ...


def pad(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask [batch, length], right-padded."""
    length = max(len(row.token_ids) for row in rows)
    ids = np.zeros((len(rows), length), np.int64)
    mask = np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.token_ids)] = row.token_ids
        mask[index, : len(row.token_ids)] = 1
    return ids, mask


def sorted_batches(rows: list[Row], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Batches of row indices, longest first; similar lengths share a batch, so padding is small."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].token_ids)):
        longest = len(rows[batches[-1][0]].token_ids) if batches else 0
        if (
            batches
            and len(batches[-1]) < max_rows
            and (len(batches[-1]) + 1) * longest <= max_tokens
        ):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
