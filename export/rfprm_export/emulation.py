"""What a GPU will make of a graph in 16-bit floats, found out on a CPU.

ONNX Runtime has no bfloat16 on a CPU, and computes float16 in float32 without rounding in between,
which would hide an overflow. So fidelity is measured on a twin of the graph: the same builder, in
float32, every result rounded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.checkpoint import LoadedPRM
from rfprm_export.float_types import float_type_of
from rfprm_export.graph import write_graph
from rfprm_export.quantization import Quantization
from rfprm_export.verify import scorer_over
from rfprm_runtime.backends.onnx import OnnxBackend
from rfprm_runtime.manifest import Manifest
from rfprm_runtime.scorer import Scorer


@contextmanager
def emulating_scorer(
    prm: LoadedPRM, manifest: Manifest, quantization: Quantization | None = None
) -> Iterator[Scorer]:
    """A scorer of ``prm`` in the precision of ``manifest``, emulated on this CPU."""
    float_type = (
        float_type_of(manifest.precision) if quantization is None else quantization.float_type
    )
    with tempfile.TemporaryDirectory(prefix="rfprm-emulation-") as folder:
        path = Path(folder) / "model.onnx"
        write_graph(
            path,
            manifest.backbone,
            manifest.head,
            prm.weights,
            max_positions=manifest.max_positions,
            attention="standard",
            float_type=float_type,
            emulated=True,
            quantization=quantization,
        )
        backend = OnnxBackend(path, manifest, provider="cpu")  # also where there is a GPU
        kind = "" if quantization is None else f"products in {quantization.kind}, "
        backend.description += f", {kind}every result rounded to {float_type}"
        with scorer_over(prm, backend) as scorer:
            yield scorer
