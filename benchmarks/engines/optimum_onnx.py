"""optimum-onnx, in an environment of its own: it wants an older transformers than ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.engines.base import Engine, Row


def load(folder: Path, option: str) -> Engine:
    return OptimumEngine(folder / "checkpoint", folder / "optimum-model")


class OptimumEngine:
    def __init__(self, checkpoint: Path, exported: Path) -> None:
        import onnxruntime
        import torch
        import transformers
        from optimum.onnxruntime import ORTModelForTokenClassification

        if not exported.exists():
            model = ORTModelForTokenClassification.from_pretrained(checkpoint, export=True)
            model.save_pretrained(exported)
        self._model = ORTModelForTokenClassification.from_pretrained(exported)
        self._torch = torch
        self.versions = (
            f"optimum-onnx, transformers {transformers.__version__}, "
            f"onnxruntime {onnxruntime.__version__}"
        )

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        results = []
        for row in rows:
            ids = self._torch.from_numpy(row.token_ids[None])
            out = self._model(input_ids=ids, attention_mask=self._torch.ones_like(ids))
            results.append(row.scores(out.logits[0].numpy()[row.markers]))
        return results
