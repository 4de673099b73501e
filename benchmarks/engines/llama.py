"""llama.cpp through llama-cpp-python, in its own environment: it is compiled at installation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines.base import Engine, Row
from benchmarks.engines.llama_file import quantize, write_gguf

_BATCH = 2048
"""Tokens of one call, llama.cpp's own default."""


def load(folder: Path, option: str) -> Engine:
    """``option``: ``Q8_0/rows=8,ubatch=512``."""
    kind, _, settings = option.partition("/")
    path = folder / "llama" / f"{kind}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name("F16.gguf")
        if not whole.exists():
            write_gguf(folder / "checkpoint", whole)
        quantize(whole, path, kind)
    numbers = dict(setting.split("=") for setting in settings.split(",") if setting)
    return LlamaEngine(path, folder, int(numbers.get("rows", 1)), int(numbers.get("ubatch", 512)))


class LlamaEngine:
    """Up to ``num_rows`` rows at once, each a sequence of its own."""

    def __init__(self, path: Path, folder: Path, num_rows: int, ubatch: int) -> None:
        import llama_cpp
        from safetensors import safe_open

        self._api: Any = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silence, None)
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {path}")
        with safe_open(folder / "checkpoint" / "model.safetensors", "numpy") as tensors:
            self._labels: int = tensors.get_slice("score.weight").get_shape()[0]
            has_bias = "score.bias" in tensors.keys()  # noqa: SIM118, it is no mapping
            self._bias = tensors.get_tensor("score.bias") if has_bias else 0.0
        self._num_rows, self._ubatch = num_rows, ubatch
        self._context: Any = None
        self._positions = 0
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        self.versions = f"llama-cpp-python {llama_cpp.__version__}"

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        # Rows of similar lengths together, as a sequence has as much room as any other.
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].token_ids))
        results: dict[int, np.ndarray] = {}
        for start in range(0, len(order), self._num_rows):
            chosen = order[start : start + self._num_rows]
            for index, scores in zip(
                chosen, self._together([rows[i] for i in chosen]), strict=True
            ):
                results[index] = scores
        return [results[index] for index in range(len(rows))]

    def _together(self, rows: list[Row]) -> list[np.ndarray]:
        self._reserve(max(len(row.token_ids) for row in rows))
        memory = self._api.llama_get_memory(self._context)
        self._api.llama_memory_clear(memory, False)
        logits = [np.empty((len(row.markers), self._labels)) for row in rows]
        tokens = [
            (int(token), position, number)
            for number, row in enumerate(rows)
            for position, token in enumerate(row.token_ids)
        ]
        marked = {
            (number, int(position)): place
            for number, row in enumerate(rows)
            for place, position in enumerate(row.markers)
        }
        for start in range(0, len(tokens), _BATCH):
            part = tokens[start : start + _BATCH]
            self._decode(part, marked)
            for index, (_, position, number) in enumerate(part):
                place = marked.get((number, position))
                if place is not None:
                    found = self._api.llama_get_logits_ith(self._context, index)
                    logits[number][place] = found[: self._labels]
        return [row.scores(own + self._bias) for row, own in zip(rows, logits, strict=True)]

    def _decode(self, part: list[tuple[int, int, int]], marked: dict[tuple[int, int], int]) -> None:
        batch = self._batch
        batch.n_tokens = len(part)
        for index, (token, position, number) in enumerate(part):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, number
            batch.logits[index] = (number, position) in marked
        status = self._api.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def _reserve(self, longest: int) -> None:
        """Room for rows of this length; a new context, and only in the first round, if it grows."""
        if longest <= self._positions:
            return
        if self._context is not None:
            self._api.llama_free(self._context)
        self._positions = -(-longest // 256) * 256
        options = self._api.llama_context_default_params()
        options.n_ctx = self._positions * self._num_rows
        options.n_batch, options.n_ubatch = _BATCH, self._ubatch
        options.n_seq_max = self._num_rows
        options.n_threads = options.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = self._api.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp has no room for {options.n_ctx} tokens")
