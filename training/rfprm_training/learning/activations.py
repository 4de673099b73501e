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
from rfprm_runtime.engine.rows import BackendLimits, plan_batches
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_training.learning.packing import Pack, pad_packs

_BATCHES_PER_SAVE = 16


class ActivationCache:
    """bfloat16 hidden states [num_tokens, hidden_size] of each pack, before one layer.

    Stored as one memory-mapped file; filling it resumes where a killed run stopped.
    """

    def __init__(
        self,
        folder: Path,
        packs: Sequence[Pack],
        layer: int,
        hidden_size: int,
        key: str,
    ) -> None:
        """``key`` names the weights; together with ids and layer it names the cache's files."""
        self.packs = packs
        self.layer = layer
        self._offsets = np.concatenate([[0], np.cumsum([pack.num_tokens for pack in packs])])
        name = _cache_name(packs, layer, key)
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
        """Hidden states of one pack, bfloat16 [num_tokens, hidden_size]."""
        start, end = self._offsets[index], self._offsets[index + 1]
        return torch.from_numpy(np.array(self._bits[start:end])).view(torch.bfloat16)

    def fill(self, network: PRMNetwork, *, batch_tokens: int = 4096) -> None:
        """Run layers [0, layer) over whatever is not there yet."""
        limits = BackendLimits(max_batch_size=64, max_batch_tokens=batch_tokens)
        batches = plan_batches([pack.num_tokens for pack in self.packs], limits)
        done = self._num_done()
        for number in range(done, len(batches)):
            self._fill_batch(network, batches[number])
            if (number + 1) % _BATCHES_PER_SAVE == 0 or number + 1 == len(batches):
                self._save_progress(number + 1)

    def _fill_batch(self, network: PRMNetwork, batch: list[int]) -> None:
        device = next(network.parameters()).device
        padded = pad_packs([self.packs[index] for index in batch], device)
        with torch.inference_mode():
            embedded = network.embed(padded.token_ids)
            hidden = network.run_layers(embedded, 0, self.layer, tree=padded.tree)
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
        write_whole(self._progress_path, json.dumps({"num_batches": num_batches}))


def _cache_name(packs: Sequence[Pack], layer: int, key: str) -> str:
    digest = hashlib.sha256(f"{key} {layer}".encode())
    for pack in packs:
        digest.update(pack.token_ids.tobytes() + b"|" + pack.seen_until.tobytes() + b"|")
    return digest.hexdigest()[:24]
