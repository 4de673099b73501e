"""transformers as its users score: a loop over traces, or sorted batches with padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.engines.base import Engine, Row, pad, sorted_batches


def load(folder: Path, option: str) -> Engine:
    dtype, way = option.split("-")
    return TransformersEngine(folder / "checkpoint", dtype, batched=way == "batched")


class TransformersEngine:
    def __init__(self, checkpoint: Path, dtype: str, *, batched: bool) -> None:
        import torch
        import transformers

        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint, dtype=kind)
        self._model = model.eval()
        # 16 rows and 8,192 tokens; more rows were not faster.
        self._max_rows = 16 if batched else 1
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        import torch

        results: dict[int, np.ndarray] = {}
        for batch in sorted_batches(rows, self._max_rows, 8192):
            ids, mask = pad([rows[index] for index in batch])
            with torch.inference_mode():
                # Without padding, leave out the mask: attention then takes its fast path.
                out = self._model(
                    input_ids=torch.from_numpy(ids),
                    attention_mask=None if mask.all() else torch.from_numpy(mask),
                )
            logits = out.logits.float().numpy()
            for place, index in enumerate(batch):
                results[index] = rows[index].scores(logits[place, rows[index].markers])
        return [results[index] for index in range(len(rows))]
