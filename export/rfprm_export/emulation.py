"""Emulates on a CPU how a GPU computes a graph in 16-bit floats.

On a CPU, ONNX Runtime has no bfloat16, and computes float16 in float32 without intermediate
rounding, which would hide an overflow. So fidelity is measured on a twin of the graph, made by the
same builder in float32, that rounds every result.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from rfprm_export.float_types import FloatType
from rfprm_export.graph_parts import OnnxInParts
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.quantization import Quantization
from rfprm_export.stored_weights import stay_in_files
from rfprm_export.trial_graph import trial_scorer
from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.ground.progress import Step
from rfprm_runtime.scorer import Scorer


def emulating_scorer(
    prm: LoadedPRM,
    float_type: FloatType,
    quantization: Quantization | None = None,
    step: Step | None = None,
) -> AbstractContextManager[Scorer]:
    """A scorer of ``prm`` that emulates on this CPU how a GPU computes in ``float_type``; in parts
    if its weights are not kept in memory, of which ``step`` is told."""
    walk = Walk(step)

    def open_backend(path: Path) -> OnnxBackend | OnnxInParts:
        backend = (
            OnnxInParts(ModelFile.of(path), prm.manifest, walk)
            if stay_in_files(prm.weights)
            else OnnxBackend(path, prm.manifest, provider="cpu")  # even if there is a GPU
        )
        kind = "" if quantization is None else f"linears in {quantization.kind}, "
        backend.description += f", {kind}every result rounded to {float_type}"
        return backend

    return trial_scorer(
        prm, open_backend, walk, float_type=float_type, emulated=True, quantization=quantization
    )
