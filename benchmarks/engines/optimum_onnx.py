"""optimum-onnx, in its own environment because it needs an older transformers than ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.engines.base import Engine, Row


def load(folder: Path, option: str) -> Engine:
    return OptimumEngine(folder / "checkpoint", folder / "optimum-model")


class OptimumEngine:
    """The backbone by optimum-onnx and the head in numpy: it cannot export a Llama for token
    classification."""

    def __init__(self, checkpoint: Path, exported: Path) -> None:
        import onnxruntime
        import torch
        import transformers
        from optimum.onnxruntime import ORTModelForFeatureExtraction
        from safetensors.numpy import load_file

        if not (exported / "model.onnx").exists():
            model = ORTModelForFeatureExtraction.from_pretrained(checkpoint, export=True)
            model.save_pretrained(exported)
        self._model = ORTModelForFeatureExtraction.from_pretrained(exported)
        weights = load_file(checkpoint / "model.safetensors")
        self._weight, self._bias = weights["score.weight"], weights.get("score.bias", 0)
        self._torch = torch
        self.versions = (
            f"optimum-onnx, transformers {transformers.__version__}, "
            f"onnxruntime {onnxruntime.__version__}"
        )

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        results = []
        for row in rows:
            ids = self._torch.from_numpy(row.token_ids[None])
            out = self._model(
                input_ids=ids,
                attention_mask=self._torch.ones_like(ids),
                position_ids=self._torch.arange(ids.shape[1])[None],
            )
            hidden = out.last_hidden_state[0].numpy()[row.markers]
            results.append(row.scores(hidden @ self._weight.T + self._bias))
        return results
