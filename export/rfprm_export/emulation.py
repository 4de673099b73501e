"""What a GPU will make of a graph in 16-bit floats, found out on a CPU.

ONNX Runtime has no bfloat16 on a CPU, and computes float16 in float32 without rounding in between,
which would hide an overflow. So fidelity is measured on a twin of the graph: the same builder, in
float32, every result rounded.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from rfprm_export.checkpoint import LoadedPRM
from rfprm_export.float_types import FloatType
from rfprm_export.quantization import Quantization
from rfprm_export.trial_graph import trial_scorer
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.scorer import Scorer


def emulating_scorer(
    prm: LoadedPRM, float_type: FloatType, quantization: Quantization | None = None
) -> AbstractContextManager[Scorer]:
    """A scorer of ``prm`` as a GPU computes in ``float_type``, emulated on this CPU."""

    def open_backend(path: Path) -> OnnxBackend:
        backend = OnnxBackend(path, prm.manifest, provider="cpu")  # also where there is a GPU
        kind = "" if quantization is None else f"products in {quantization.kind}, "
        backend.description += f", {kind}every result rounded to {float_type}"
        return backend

    return trial_scorer(
        prm, open_backend, float_type=float_type, emulated=True, quantization=quantization
    )
