"""Backends: integers in, logits at marker rows out.

The table maps a name to a function that imports inside, so that a backend nobody uses costs
nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rfprm_runtime.arguments import check_flag
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.errors import ArtifactError, BackendError, RfprmError
from rfprm_runtime.manifest import Manifest
from rfprm_runtime.types import Mode

ONNX_NAME = "model.onnx"
SAFETENSORS_NAME = "model.safetensors"
NATIVE_NAME = "model.native.safetensors"
PLAN_NAME = "model.plan"


def _open_onnx(folder: Path, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    from rfprm_runtime.backends.onnx import OnnxBackend

    if mode == "latency":  # how many threads run a row is fixed when the model is loaded
        options.setdefault("threads_per_row", usable_cores(options.get("num_threads")))
    return OnnxBackend(folder / ONNX_NAME, manifest, **options)


def _open_native(folder: Path, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    from rfprm_runtime.backends.native import NativeBackend

    return NativeBackend(folder / NATIVE_NAME, manifest, **options)


def _open_torch(folder: Path, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    from rfprm_runtime.backends.torch import TorchBackend, find_device

    path = folder / SAFETENSORS_NAME
    packed = options.pop("packed", None)
    if packed is None:  # on a CPU rows alone, whose bits depend on nothing beside
        packed = find_device(options.get("device")).type == "cuda"
    check_flag("packed", packed)
    if not packed:
        return TorchBackend.load(path, manifest, **options)
    from rfprm_runtime.backends.packed_torch import PackedTorchBackend

    return PackedTorchBackend.load(path, manifest, **options)


def _open_tensorrt(folder: Path, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    from rfprm_runtime.backends.tensorrt import TensorRTBackend

    return TensorRTBackend(folder / PLAN_NAME, manifest, **options)


def _open_fake(folder: Path, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    from rfprm_runtime.backends.fake import FakeBackend

    return FakeBackend(manifest.head.num_labels, **options)


def _check_tensorrt(manifest: Manifest, device: Any) -> None:
    from rfprm_runtime.backends.tensorrt import check_usable

    check_usable(manifest, device)


def _check_native(manifest: Manifest, device: Any) -> None:
    from rfprm_runtime.native.library import load_library

    load_library()


@dataclass(frozen=True)
class _Kind:
    """What is known of a backend before it is imported."""

    open: Callable[..., Backend]
    options_of: str
    """The class whose keyword arguments are its options, as module:name."""
    file: str | None = None
    """Of an artifact that has a model for it; None where it needs none."""
    way_out: str = ""
    """What to do where an artifact has none."""
    check: Callable[[Manifest, Any], object] = lambda manifest, device: None
    """Raises where this machine, or its device, cannot run it."""


# In the order in which "auto" prefers them.
_KINDS = {
    "tensorrt": _Kind(
        _open_tensorrt,
        "rfprm_runtime.backends.tensorrt:TensorRTBackend",
        PLAN_NAME,
        "build one with python export/to_trt.py",
        _check_tensorrt,
    ),
    "native": _Kind(
        _open_native,
        "rfprm_runtime.backends.native:NativeBackend",
        NATIVE_NAME,
        "export it with --precision int16",
        _check_native,
    ),
    "onnx": _Kind(
        _open_onnx,
        "rfprm_runtime.backends.onnx:OnnxBackend",
        ONNX_NAME,
        "export it with --format onnx, or build the engine with --keep-graph",
    ),
    "torch": _Kind(
        _open_torch,
        "rfprm_runtime.backends.packed_torch:PackedTorchBackend",
        SAFETENSORS_NAME,
        "export it with --format torch",
    ),
    "fake": _Kind(_open_fake, "rfprm_runtime.backends.fake:FakeBackend"),
}
_MODEL_FILES = {name: kind.file for name, kind in _KINDS.items() if kind.file is not None}
_logger = logging.getLogger(__name__)


def choose_backend(
    manifest: Manifest, requested: str = "auto", options: Mapping[str, Any] | None = None
) -> str:
    """The name of the backend to open. An explicit request never falls back to another one; "auto"
    takes the first that the artifact has a model for and this machine can run, and logs why.
    ``options``: those that the backend will get, of which the device matters.

    Raises :class:`BackendError` for an unknown name, and where the artifact holds nothing but an
    engine that cannot run here; :class:`ArtifactError` where it holds no model for the name.
    """
    available = [name for name, file in _MODEL_FILES.items() if file in manifest.files]
    if requested == "auto":
        if not available:
            raise ArtifactError(
                f"the artifact holds no model: its manifest lists {sorted(manifest.files)}, "
                f"expected one of {sorted(_MODEL_FILES.values())}; export it again, or load the "
                "artifact that this folder was made from"
            )
        return _first_that_runs(available, manifest, (options or {}).get("device"))
    if requested not in _KINDS:
        raise BackendError(
            f"backend is {requested!r}, expected 'auto' or one of {sorted(_MODEL_FILES)}"
        )
    if requested in _MODEL_FILES and requested not in available:
        raise ArtifactError(
            f"backend {requested!r} needs {_MODEL_FILES[requested]}, but the artifact lists "
            f"{sorted(manifest.files)}; {_KINDS[requested].way_out}"
        )
    return requested


def _first_that_runs(available: list[str], manifest: Manifest, device: Any) -> str:
    reasons = {}
    for name in available:
        try:
            _KINDS[name].check(manifest, device)
        except RfprmError as error:
            reasons[_MODEL_FILES[name]] = str(error)
            continue
        for file, reason in reasons.items():
            _logger.warning("%s of the artifact is left alone: %s", file, reason)
        _logger.info("backend %r of %s", name, available)
        return name
    also = (
        ". The artifact holds nothing else: --keep-graph, where the engine is built, leaves the "
        "graph beside it for machines like this one"
    )
    raise BackendError("; ".join(reasons.values()) + (also if available == ["tensorrt"] else ""))


def open_backend(
    name: str,
    folder: Path,
    manifest: Manifest,
    *,
    mode: Mode = "auto",
    was_requested: bool = True,
    **options: Any,
) -> Backend:
    """Load the model of ``folder`` into the backend ``name`` (see :func:`choose_backend`).

    ``was_requested``: by name, and not picked. Raises :class:`BackendError` for an option that the
    backend does not have.
    """
    try:
        return _KINDS[name].open(folder, manifest, mode=mode, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        unknown = str(error).rpartition("argument ")[2]
        picked = "" if was_requested else ", which was picked,"
        name_it = "" if was_requested else "; name the backend that the option is for"
        raise BackendError(
            f"backend {name!r}{picked} has no option {unknown}; it takes {_option_names(name)}"
            f"{name_it}"
        ) from None


def _option_names(name: str) -> list[str]:
    module, _, class_name = _KINDS[name].options_of.partition(":")
    signature = inspect.signature(getattr(import_module(module), class_name))
    also = ["packed"] if name == "torch" else []
    kinds = (inspect.Parameter.KEYWORD_ONLY,)
    return sorted([p.name for p in signature.parameters.values() if p.kind in kinds] + also)
