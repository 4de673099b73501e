"""The table of backends, which run integers to logits at marker rows.

:data:`KINDS` has a row for each. A row names the class as text, so an unused backend costs nothing,
and says everything that other code has to know about it: a new backend is a row and a file.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import NATIVE_NAME, ONNX_NAME, PLAN_NAME, TORCH_NAME, Manifest
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.errors import ArtifactError, BackendError, RfprmError
from rfprm_runtime.ground.arguments import check_flag
from rfprm_runtime.ground.whole_imports import import_whole
from rfprm_runtime.types import Mode

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """A row of the table: what is known about a backend before it is imported."""

    implementation: str
    """Its class, as module:name. The keyword-only arguments of the class are its options."""
    file: str | None = None
    """The model file of an artifact that it runs; None if it needs none."""
    borrows: Callable[[Manifest], str | None] = lambda manifest: None
    """The model file of another backend that it runs too, of an artifact without ``file``."""
    open: Callable[..., Backend] | None = None
    """Called as ``open(files, manifest, mode=…, **options)``, if opening takes more than
    ``implementation(files.file(file), manifest, **options)``. Its keyword-only arguments, except
    the mode, are options too."""
    way_out: str = ""
    """What to do if an artifact has no such model."""
    alone: str = ""
    """What to do if an artifact has no other model and this machine cannot run this one."""
    check: Callable[[Manifest, Any], object] = lambda manifest, device: None
    """Raises if this machine, or its device, cannot run it."""
    gpu_options: Mapping[str, Any] | None = None
    """Options that put it on a GPU; None if it runs only on CPUs."""
    cores_option: str | None = None
    """The option that says how many cores it may use."""
    same_scores: frozenset[str] = frozenset()
    """Options that do not change scores, on a GPU apart from rounding."""

    def implementing_class(self) -> Callable[..., Backend]:
        module, _, name = self.implementation.partition(":")
        found: Callable[..., Backend] = getattr(import_whole(module), name)
        return found

    def model_of(self, manifest: Manifest) -> str | None:
        """The model file of an artifact that it would run; None if there is none for it."""
        return self.file if self.file in manifest.files else self.borrows(manifest)


def _open_onnx(files: ArtifactFiles, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    import_whole("rfprm_runtime.backends.onnx")
    from rfprm_runtime.backends.onnx import OnnxBackend

    if mode == "latency":  # the number of threads per row is fixed when the model is loaded
        options.setdefault("threads_per_row", usable_cores(options.get("num_threads")))
    return OnnxBackend(files.file(ONNX_NAME), manifest, **options)


def _open_torch(
    files: ArtifactFiles,
    manifest: Manifest,
    *,
    mode: Mode,
    packed: bool | None = None,
    **options: Any,
) -> Backend:
    from rfprm_runtime.backends.torch import TorchBackend, find_device

    file = files.file(model_file("torch"))
    if packed is None:  # on a CPU one row at a time, so that its bits depend on no other
        packed = find_device(options.get("device")).type == "cuda"
    check_flag("packed", packed)
    if packed:
        from rfprm_runtime.backends.packed_torch import PackedTorchBackend

        return PackedTorchBackend.load(file, manifest, **options)
    for name in sorted(options.keys() - _keywords(TorchBackend)):
        raise BackendError(
            f"backend 'torch' has option {name!r} only with packed=True; pass that too, or leave "
            f"{name} out"
        )
    return TorchBackend.load(file, manifest, **options)


def _open_fake(files: ArtifactFiles, manifest: Manifest, *, mode: Mode, **options: Any) -> Backend:
    from rfprm_runtime.backends.fake import FakeBackend

    return FakeBackend(manifest.head.num_labels, **options)


def _check_tensorrt(manifest: Manifest, device: Any) -> None:
    from rfprm_runtime.backends.tensorrt.backend import check_usable

    check_usable(manifest, device)


def _fp32_weights(manifest: Manifest) -> str | None:
    """The file with the weights of an fp32 artifact, which the native kernels run as it is."""
    names = (ONNX_NAME, TORCH_NAME) if manifest.precision == "fp32" else ()
    return next((name for name in names if name in manifest.files), None)


def _check_native(manifest: Manifest, device: Any) -> None:
    import_whole("rfprm_runtime.backends.native.model_file")
    from rfprm_runtime.backends.native.library import load_library
    from rfprm_runtime.backends.native.limits import check_fits

    file = KINDS["native"].model_of(manifest)
    if file == NATIVE_NAME:
        load_library()
        return
    load_library(numbers="float32")
    check_fits(manifest.backbone, manifest.max_positions, numbers="float32")
    if file == ONNX_NAME and "attention" not in manifest.exporter:
        raise BackendError("its manifest does not say that rfprm export wrote the graph")
    if file == TORCH_NAME and device is not None:
        raise BackendError("the native kernels run on no device but the CPU")
    if file == TORCH_NAME and find_spec("torch") is not None:
        raise BackendError("torch is installed, which the weights are stored for")


# In the order in which "auto" prefers them.
KINDS: dict[str, Kind] = {
    "tensorrt": Kind(
        "rfprm_runtime.backends.tensorrt.backend:TensorRTBackend",
        PLAN_NAME,
        way_out="build one with python export/to_trt.py",
        alone="build the TensorRT engine with --keep-graph, and the graph stays beside it for "
        "machines like this one",
        check=_check_tensorrt,
        gpu_options={},  # runs nowhere else
        same_scores=frozenset(
            {"num_streams", "max_batch_tokens", "runtime_cache", "allow_host_code"}
        ),
    ),
    "native": Kind(
        "rfprm_runtime.backends.native.backend:NativeBackend",
        NATIVE_NAME,
        borrows=_fp32_weights,
        way_out="export it with --precision int16 or fp32",
        check=_check_native,
        cores_option="num_threads",
        same_scores=frozenset({"num_threads", "map_weights"}),
    ),
    "onnx": Kind(
        "rfprm_runtime.backends.onnx:OnnxBackend",
        ONNX_NAME,
        open=_open_onnx,
        way_out="export it with --format onnx, or build the TensorRT engine with --keep-graph",
        gpu_options={"provider": "cuda"},
        cores_option="num_threads",
        same_scores=frozenset(
            {"num_threads", "threads_per_row", "max_batch_tokens", "map_weights"}
        ),
    ),
    "torch": Kind(
        "rfprm_runtime.backends.packed_torch:PackedTorchBackend",
        TORCH_NAME,
        open=_open_torch,
        way_out="export it with --format torch",
        gpu_options={"device": "cuda"},
        same_scores=frozenset({"max_batch_tokens", "cuda_graphs"}),
    ),
    "fake": Kind("rfprm_runtime.backends.fake:FakeBackend", open=_open_fake),
}


def model_file(name: str) -> str:
    """The model file of an artifact that is made for the backend ``name``."""
    file = KINDS[name].file
    assert file is not None, f"backend {name!r} needs no model"
    return file


def backend_names() -> list[str]:
    """The backends that run a model, in the order in which ``auto`` prefers them."""
    return [name for name, kind in KINDS.items() if kind.file is not None]


def option_names(name: str) -> list[str]:
    """The options of a backend, which is imported: raises what its import raises."""
    kind = KINDS[name]
    own = set() if kind.open is None else _keywords(kind.open) - {"mode"}
    return sorted(own | _keywords(kind.implementing_class()))


def choose_backend(
    manifest: Manifest, requested: str = "auto", options: Mapping[str, Any] | None = None
) -> str:
    """The name of the backend to open. An explicit request never falls back to another one; "auto"
    takes the first that the artifact has a model for, this machine can run and has the ``options``
    that it will get, and logs why.

    Raises :class:`BackendError` for an unknown name, and if this machine can run none of the
    artifact's models; :class:`ArtifactError` if the artifact holds no model for the name.
    """
    available = [name for name in backend_names() if KINDS[name].model_of(manifest) is not None]
    if requested == "auto":
        if not available:
            raise ArtifactError(
                f"the artifact holds no model: its manifest lists {sorted(manifest.files)}, "
                f"expected one of {sorted(map(model_file, backend_names()))}; export it again, or "
                "load the artifact that this folder was made from"
            )
        return _first_that_runs(available, manifest, options or {})
    if requested not in KINDS:
        raise BackendError(
            f"backend is {requested!r}, expected 'auto' or one of {sorted(backend_names())}"
        )
    kind = KINDS[requested]
    if kind.file is not None and requested not in available:
        raise ArtifactError(
            f"backend {requested!r} needs {kind.file}, but the artifact lists "
            f"{sorted(manifest.files)}; {kind.way_out}"
        )
    return requested


def _first_that_runs(available: list[str], manifest: Manifest, options: Mapping[str, Any]) -> str:
    chosen: str | None = None
    reasons = {}
    for name in available:
        try:
            KINDS[name].check(manifest, options.get("device"))
        except RfprmError as error:
            reasons[name] = str(error)
            continue
        has_all = not options or options.keys() <= set(option_names(name))
        if has_all or chosen is None:  # if none has all, the first says so when it is opened
            chosen = name
        if has_all:
            break
    if chosen is None:
        alone = KINDS[available[0]].alone if len(available) == 1 else ""
        also = f". The artifact has no other model; {alone}" if alone else ""
        raise BackendError("; ".join(reasons.values()) + also)
    used = KINDS[chosen].model_of(manifest)
    for name, reason in reasons.items():
        unused = KINDS[name].model_of(manifest)
        if unused == used:
            _logger.info("backend %r does not run the artifact's %s: %s", name, used, reason)
        else:
            _logger.warning("the artifact's %s is not used: %s", unused, reason)
    _logger.info("backend %r, picked from %s", chosen, available)
    return chosen


def open_backend(
    name: str,
    files: ArtifactFiles,
    manifest: Manifest,
    *,
    mode: Mode = "auto",
    was_requested: bool = True,
    **options: Any,
) -> Backend:
    """Load the model among ``files`` into the backend ``name`` (see :func:`choose_backend`).

    ``was_requested``: the caller named the backend, ``auto`` did not pick it. Raises
    :class:`BackendError` for an option that the backend does not have.
    """
    if options:
        _check_options(name, options, was_requested)
    kind = KINDS[name]
    if kind.open is not None:
        return kind.open(files, manifest, mode=mode, **options)
    file = kind.model_of(manifest)
    assert file is not None, f"backend {name!r} was not chosen for this manifest"
    return kind.implementing_class()(files.file(file), manifest, **options)


def _check_options(name: str, options: Mapping[str, Any], was_requested: bool) -> None:
    known = option_names(name)
    for option in options:
        if option not in known:
            picked = "" if was_requested else ", which 'auto' picked,"
            name_it = "" if was_requested else "; name the backend that the option is for"
            raise BackendError(
                f"backend {name!r}{picked} has no option {option!r}; it takes {known}{name_it}"
            )


def _keywords(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {item.name for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}
