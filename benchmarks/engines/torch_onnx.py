"""The model exported by torch.onnx.export, on ONNX Runtime with default options."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.engines.base import Engine, Row


def load(folder: Path, option: str) -> Engine:
    path = folder / "torch-onnx" / "model.onnx"
    if not path.exists():
        export(folder / "checkpoint", path)
    return OnnxEngine(path, "torch.onnx.export, ")


def export(checkpoint: Path, path: Path) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForTokenClassification.from_pretrained(
        checkpoint, dtype=torch.float32, use_cache=False
    ).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).logits
            return logits

    # Two tensors: the exporter merges one tensor passed twice into a single input.
    ids, mask = torch.ones((2, 16), dtype=torch.int64), torch.ones((2, 16), dtype=torch.int64)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Logits(), (ids, mask), dynamo=True, dynamic_shapes=(axes, axes), optimize=True
    )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(path, external_data=True)


class OnnxEngine:
    """A graph with ids and mask, run on one unpadded row at a time, which beats padded batches."""

    def __init__(self, path: Path, kind: str) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]
        self.versions = f"{kind}onnxruntime {onnxruntime.__version__}"

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        results = []
        for row in rows:
            ids = row.token_ids[None]
            (logits,) = self._session.run(
                None, {"input_ids": ids, self._inputs[1]: np.ones_like(ids)}
            )
            results.append(row.scores(logits[0, row.markers]))
        return results
