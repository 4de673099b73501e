"""Scores with an exported model a part at a time, for models larger than the memory.

What runs is what was written: the files of the artifact, checked against its manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rfprm_export.graph_parts import OnnxInParts
from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import NATIVE_NAME, ONNX_NAME, TORCH_NAME, Manifest
from rfprm_runtime.artifact.tensors import TensorFile
from rfprm_runtime.backends.native.layered import LayeredNative
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.scorer import Scorer


@contextmanager
def scorer_in_parts(folder: Path, manifest: Manifest, walk: Walk) -> Iterator[Scorer]:
    """A scorer of the artifact in ``folder``, whose ``manifest`` may not be written yet."""
    files = ArtifactFiles(folder, manifest.files)
    vocab_size = manifest.backbone.vocab_size
    encoder = TrajectoryEncoder.load(files, manifest.prompt, vocab_size=vocab_size)
    with ending(Scorer(manifest, encoder, _opened(files, manifest, walk)), walk) as scorer:
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


def _opened(files: ArtifactFiles, manifest: Manifest, walk: Walk) -> Backend:
    if NATIVE_NAME in manifest.files:
        return LayeredNative(files.file(NATIVE_NAME), manifest, walk=walk)
    if ONNX_NAME in manifest.files:
        return OnnxInParts(files.file(ONNX_NAME), manifest, walk)
    from rfprm_runtime.backends.layered_torch import LayeredTorch

    weights = TensorFile(files.file(TORCH_NAME))
    return LayeredTorch(manifest.backbone, manifest.head, weights, walk)
