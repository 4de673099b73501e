"""Temporary graphs for measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfprm_export.graph import write_graph
from rfprm_export.in_parts import ending
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.reference import scorer_over
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.ground.whole_files import scratch_folder
from rfprm_runtime.scorer import Scorer


@contextmanager
def trial_scorer(
    prm: LoadedPRM,
    open_backend: Callable[[Path], Backend],
    walk: Walk | None = None,
    **options: Any,
) -> Iterator[Scorer]:
    """A scorer of ``prm`` over a temporary graph of standard ops, which ``open_backend`` loads.
    ``walk``: that of the backend, if it runs in parts. ``options`` go to
    :func:`~rfprm_export.graph.write_graph`."""
    with scratch_folder("rfprm-graph") as folder:
        path = folder / "model.onnx"
        write_graph(path, prm.manifest, prm.weights, attention="standard", **options)
        with ending(scorer_over(prm, open_backend(path)), walk or Walk()) as scorer:
            yield scorer
