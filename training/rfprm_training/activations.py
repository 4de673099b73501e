"""Hidden states below the trained layers, computed once and kept on disk.

LoRA touches the upper layers only, so what enters them is the same in every epoch. Knows token
ids and layers, no labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rfprm_runtime.backends.torch import PRMNetwork
from rfprm_runtime.batching import BackendLimits, pad_batch, plan_batches
from rfprm_runtime.encoding import EncodedTrajectory

_BATCHES_PER_SAVE = 16


class ActivationCache:
    """bfloat16 hidden states [num_tokens, hidden_size] of each trajectory, before one layer.

    Stored as one memory-mapped file; filling it resumes where a killed run stopped.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[EncodedTrajectory],
        layer: int,
        hidden_size: int,
        key: str,
    ) -> None:
        """``key`` names the weights; together with ids and layer it names the cache's files."""
        self.rows = rows
        self.layer = layer
        self._offsets = np.concatenate([[0], np.cumsum([row.num_tokens for row in rows])])
        name = _cache_name(rows, layer, key)
        folder.mkdir(parents=True, exist_ok=True)
        self._progress_path = folder / f"{name}.json"
        path = folder / f"{name}.bin"
        shape = (int(self._offsets[-1]), hidden_size)
        there = path.is_file() and path.stat().st_size == shape[0] * shape[1] * 2
        if not there:
            self._progress_path.unlink(missing_ok=True)
        # numpy has no bfloat16; its bits travel as int16.
        self._bits = np.memmap(path, dtype=np.int16, mode="r+" if there else "w+", shape=shape)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Hidden states of one trajectory, bfloat16 [num_tokens, hidden_size]."""
        start, end = self._offsets[index], self._offsets[index + 1]
        return torch.from_numpy(np.array(self._bits[start:end])).view(torch.bfloat16)

    def fill(self, network: PRMNetwork, *, batch_tokens: int = 4096) -> None:
        """Run layers [0, layer) over whatever is not there yet."""
        limits = BackendLimits(max_batch_size=64, max_batch_tokens=batch_tokens)
        batches = plan_batches([row.num_tokens for row in self.rows], limits)
        done = self._num_done()
        for number in range(done, len(batches)):
            self._fill_batch(network, batches[number])
            if (number + 1) % _BATCHES_PER_SAVE == 0 or number + 1 == len(batches):
                self._save_progress(number + 1)

    def _fill_batch(self, network: PRMNetwork, batch: list[int]) -> None:
        padded = pad_batch([self.rows[index] for index in batch])
        device = next(network.parameters()).device
        with torch.inference_mode():
            ids = torch.from_numpy(padded.token_ids).to(device)
            hidden = network.run_layers(network.embed(ids), 0, self.layer)
        bits = hidden.to(torch.bfloat16).cpu().view(torch.int16).numpy()
        for row, index in enumerate(batch):
            start, end = self._offsets[index], self._offsets[index + 1]
            self._bits[start:end] = bits[row, : end - start]

    def _num_done(self) -> int:
        if not self._progress_path.is_file():
            return 0
        return int(json.loads(self._progress_path.read_text())["num_batches"])

    def _save_progress(self, num_batches: int) -> None:
        self._bits.flush()
        partial = self._progress_path.with_suffix(".partial")
        partial.write_text(json.dumps({"num_batches": num_batches}))
        partial.replace(self._progress_path)


def _cache_name(rows: Sequence[EncodedTrajectory], layer: int, key: str) -> str:
    digest = hashlib.sha256(f"{key} {layer}".encode())
    for row in rows:
        digest.update(row.token_ids.tobytes() + b"|")
    return digest.hexdigest()[:24]
