"""Hidden states below the trained layers, computed once and kept on disk.

LoRA changes the upper layers only, so their input is the same in every epoch. Knows token ids and
layers, no labels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rfprm_runtime.backends.torch import PRMNetwork
from rfprm_runtime.engine.rows import BackendLimits, plan_batches
from rfprm_runtime.ground.claims import waiting_for
from rfprm_runtime.ground.progress import Step
from rfprm_runtime.ground.whole_files import told_what_to_do, write_whole
from rfprm_training.learning.trees import TokenTree, pad_trees

_BATCHES_PER_SAVE = 16
_FORMAT_VERSION = 2
"""Rises when the code begins to give other states."""


class ActivationCache:
    """bfloat16 hidden states [num_tokens, hidden_size] of each token tree, before one layer.

    Stored as one memory-mapped file; filling it resumes after a kill. Runs may share a folder: one
    fills the file, and the others wait.
    """

    def __init__(
        self,
        folder: Path,
        trees: Sequence[TokenTree],
        layer: int,
        hidden_size: int,
        key: str,
    ) -> None:
        """``key`` identifies the weights by content, and the type and device that they are computed
        with; key, token ids and layer make up the file's name. Raises ``OutputError`` if the disk
        is full."""
        self.trees = trees
        self.layer = layer
        self._offsets = np.concatenate([[0], np.cumsum([tree.num_tokens for tree in trees])])
        name = _cache_name(trees, layer, key)
        folder.mkdir(parents=True, exist_ok=True)
        self._progress_path = folder / f"{name}.json"
        self._lock_path = folder / f"{name}.lock"
        path = folder / f"{name}.bin"
        shape = (int(self._offsets[-1]), hidden_size)
        with waiting_for(self._lock_path), told_what_to_do(path):
            if not path.is_file() or path.stat().st_size != shape[0] * shape[1] * 2:
                self._progress_path.unlink(missing_ok=True)
                _reserve(path, shape[0] * shape[1] * 2)
        # numpy has no bfloat16; its bits travel as int16.
        self._bits = np.memmap(path, dtype=np.int16, mode="r+", shape=shape)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Hidden states of one tree, bfloat16 [num_tokens, hidden_size]."""
        start, end = self._offsets[index], self._offsets[index + 1]
        return torch.from_numpy(np.array(self._bits[start:end])).view(torch.bfloat16)

    def fill(
        self,
        network: PRMNetwork,
        *,
        batch_tokens: int = 4096,
        step: Step = lambda done, total: None,
    ) -> None:
        """Run layers [0, layer) over the trees that are not cached yet. ``step`` is called with the
        batches done and their number."""
        limits = BackendLimits(max_batch_size=64, max_batch_tokens=batch_tokens)
        batches = plan_batches([tree.num_tokens for tree in self.trees], limits)
        with waiting_for(self._lock_path):
            for number in range(self._num_done(batch_tokens), len(batches)):
                self._fill_batch(network, batches[number])
                step(number + 1, len(batches))
                if (number + 1) % _BATCHES_PER_SAVE == 0 or number + 1 == len(batches):
                    self._save_progress(number + 1, batch_tokens)

    def _fill_batch(self, network: PRMNetwork, batch: list[int]) -> None:
        device = next(network.parameters()).device
        padded = pad_trees([self.trees[index] for index in batch], device)
        with torch.inference_mode():
            embedded = network.embed(padded.token_ids)
            hidden = network.run_layers(embedded, 0, self.layer, tree=padded.tree)
        bits = hidden.to(torch.bfloat16).cpu().view(torch.int16).numpy()
        for row, index in enumerate(batch):
            start, end = self._offsets[index], self._offsets[index + 1]
            self._bits[start:end] = bits[row, : end - start]

    def _num_done(self, batch_tokens: int) -> int:
        """Batches that are filled, in a division by ``batch_tokens``; 0 in another one."""
        try:
            found = json.loads(self._progress_path.read_text(encoding="utf-8"))
            return int(found["num_batches"]) if found["batch_tokens"] == batch_tokens else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _save_progress(self, num_batches: int, batch_tokens: int) -> None:
        self._bits.flush()
        progress = {"num_batches": num_batches, "batch_tokens": batch_tokens}
        write_whole(self._progress_path, json.dumps(progress))


def _reserve(path: Path, num_bytes: int) -> None:
    """A new file with room for everything: a full disk is an error here, but kills a process that
    writes to a mapped file."""
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            file.truncate(num_bytes)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _cache_name(trees: Sequence[TokenTree], layer: int, key: str) -> str:
    digest = hashlib.sha256(f"{_FORMAT_VERSION} {key} {layer}".encode())
    for tree in trees:
        digest.update(tree.token_ids.tobytes() + b"|" + tree.seen_until.tobytes() + b"|")
    return digest.hexdigest()[:24]
