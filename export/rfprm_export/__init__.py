"""Turns a trained PRM into an artifact that rfprm_runtime loads. Needs the extra ``export``.

Knows checkpoints and graphs. Needs neither torch nor transformers; if torch is installed, it
verifies the export.
"""

from __future__ import annotations

from importlib.util import find_spec

from rfprm_runtime.errors import MissingExtraError, RfprmError

for _package in ("onnx", "safetensors", "gguf"):
    if find_spec(_package) is None:
        raise MissingExtraError(_package, "export", "export")


class ExportError(RfprmError):
    """The checkpoint cannot be exported, or the artifact is not faithful to it."""
