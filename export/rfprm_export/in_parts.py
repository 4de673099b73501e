"""Scores with an exported model a part at a time, for models larger than the memory.

What runs is what was written: the files of the artifact, checked against its manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.graph_parts import OnnxInParts
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.tensors import TensorFile
from rfprm_runtime.backends.native.layered import LayeredNative
from rfprm_runtime.backends.table import KINDS, backend_names
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.scorer import Scorer


@contextmanager
def scorer_in_parts(
    folder: Path, manifest: Manifest, walk: Walk, backend: str | None = None
) -> Iterator[Scorer]:
    """A scorer of the artifact in ``folder``, whose ``manifest`` may not be written yet.
    ``backend``: whose parts run; by default the one that its model file is made for."""
    files = ArtifactFiles(folder, manifest.files)
    vocab_size = manifest.backbone.vocab_size
    encoder = TrajectoryEncoder.load(files, manifest.prompt, vocab_size=vocab_size)
    with ending(Scorer(manifest, encoder, _opened(files, manifest, walk, backend)), walk) as scorer:
        yield scorer


@contextmanager
def ending(scorer: Scorer, walk: Walk) -> Iterator[Scorer]:
    """``scorer``, whose run ends soon if an error, or Ctrl-C, ends the block: closing waits for
    it."""
    with scorer:
        try:
            yield scorer
        except BaseException:
            walk.give_up()
            raise


def _opened(files: ArtifactFiles, manifest: Manifest, walk: Walk, backend: str | None) -> Backend:
    if backend is None:
        backend = next(name for name in backend_names() if KINDS[name].file in manifest.files)
    name = KINDS[backend].model_of(manifest)
    assert name is not None, backend
    if backend == "native":
        return LayeredNative(files.file(name), manifest, walk=walk)
    if backend == "onnx":
        return OnnxInParts(files.file(name), manifest, walk)
    from rfprm_runtime.backends.layered_torch import LayeredTorch

    weights = TensorFile(files.file(name))
    return LayeredTorch(manifest.backbone, manifest.head, weights, walk)
