"""ONNX Runtime: loads ``model.onnx`` and runs it, on a CPU one row per call.

Knows token ids, marker positions and execution providers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.contents import Content, ModelFile, WatchedFile
from rfprm_runtime.artifact.manifest import GPU_PRECISIONS, Manifest
from rfprm_runtime.artifact.onnx_file import check_listed, external_files, external_names
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.engine.rows import BackendLimits, TokenBatch
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.arguments import check_flag, check_is, check_whole
from rfprm_runtime.ground.whole_imports import import_whole

CPU_PROVIDER = "CPUExecutionProvider"
_PROVIDER_NAMES = {
    "cpu": CPU_PROVIDER,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}
_MAX_BYTES_IN_MEMORY = 2**31 - 1
"""ONNX Runtime takes larger tensors by the path of their file only."""
_logger = logging.getLogger(__name__)
_PLUGINS = {"NvTensorRTRTXExecutionProvider": "onnxruntime_ep_nv_tensorrt_rtx"}
"""Providers with packages of their own, which have to be registered once."""
_registered: set[str] = set()


class OnnxBackend:
    """One session, shared by all threads.

    On a CPU every row is a call of its own: nothing is padded, and a row's bits cannot depend on
    its neighbours. By default a row runs on one core, and as many rows run at once as there are
    cores, for throughput; ``threads_per_row`` gives each row more cores, for latency.
    """

    def __init__(
        self,
        model: Path | ModelFile,
        manifest: Manifest,
        *,
        provider: str | None = None,
        provider_options: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
        threads_per_row: int = 1,
        max_batch_tokens: int = 16_384,
        map_weights: bool = False,
    ) -> None:
        """
        ``provider``: ``cpu``, ``cuda``, ``tensorrt``, ``tensorrt_rtx`` or an ONNX Runtime provider
        name. It is used or an error is raised; there is no fallback. The default is ``cuda`` for
        models in a precision for GPUs if this onnxruntime has it, and ``cpu`` otherwise.
        ``provider_options``: passed on to ONNX Runtime, which documents them
        (``{"device_id": 1}``, ``{"trt_engine_cache_enable": True, …}``). ``num_threads``: CPU cores
        to use, by default all usable ones; ``threads_per_row`` of them (at most all) run one row.
        ``max_batch_tokens``: padded tokens of one batch on a GPU. ``map_weights``: let ONNX Runtime
        map the weights on a CPU, which takes half the memory while it loads, instead of reading
        them first; it maps those of more than 2 GiB anyway. The files must then stay as they are: a
        change is noticed before and after each run, but truncating one during a run kills the
        process.

        Raises :class:`InvalidArgumentError` for an option of the wrong kind, and
        :class:`BackendError` if the provider is not available or the model does not load.
        """
        ort = import_whole("onnxruntime")
        check_is("provider", provider, (str, type(None)), "the name of a provider")
        options = provider_options or {}
        check_is("provider_options", options, Mapping, "a mapping of names to values")
        check_whole("threads_per_row", threads_per_row)
        check_whole("max_batch_tokens", max_batch_tokens)
        check_flag("map_weights", map_weights)

        if provider is None:
            provider = _default_provider(ort, manifest)
        provider = _PROVIDER_NAMES.get(provider, provider)
        _check_available(ort, provider)
        on_cpu = provider == CPU_PROVIDER
        threads = usable_cores(num_threads) if on_cpu else 1
        per_row = min(threads_per_row, threads)
        self.limits = (
            BackendLimits(max_batch_size=1, max_concurrent_runs=threads // per_row)
            if on_cpu
            else BackendLimits(max_batch_size=256, max_batch_tokens=max_batch_tokens)
        )
        self.description = f"onnxruntime {ort.__version__}, {provider}, {threads} thread(s)"
        self._num_labels = manifest.head.num_labels
        files = ModelFile.of(model)
        is_large = files.files.largest_data(files.name) > _MAX_BYTES_IN_MEMORY
        graph = _GraphFiles(files, by_path=map_weights or is_large or not on_cpu)
        self._session = _open_session(ort, graph, provider, options, per_row, manifest.precision)
        self._graph = graph.loaded()
        self._input_names = [item.name for item in self._session.get_inputs()]
        if not on_cpu and "lengths" not in self._input_names:
            _logger.warning(
                "onnxruntime %s may run the standard Attention of this graph on the CPU; for %s "
                "export with --attention group_query",
                ort.__version__,
                provider,
            )

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        session = self._session
        if session is None:
            raise BackendError("the backend was closed; load the scorer again")
        feeds = {
            "token_ids": batch.token_ids,
            "lengths": batch.lengths,
            "marker_positions": batch.marker_positions,
        }
        self._graph.check_unchanged()
        try:
            outputs = session.run(["logits"], {name: feeds[name] for name in self._input_names})
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            raise BackendError(
                f"onnxruntime failed on a batch of {batch.token_ids.shape} token ids: {error}"
            ) from error
        self._graph.check_unchanged()
        logits: NDArray[np.float32] = outputs[0]
        expected = (len(batch.marker_positions), self._num_labels)
        if logits.shape != expected:
            raise BackendError(
                f"the model returned logits of shape {logits.shape}, expected {expected}; the "
                "graph is not a PRM's or reads the wrong head; export it again"
            )
        return logits

    def close(self) -> None:
        self._session = None


def _default_provider(ort: Any, manifest: Manifest) -> str:
    on_gpu = manifest.precision in GPU_PRECISIONS
    return "cuda" if on_gpu and _PROVIDER_NAMES["cuda"] in ort.get_available_providers() else "cpu"


def _check_available(ort: Any, provider: str) -> None:
    """Raises :class:`BackendError` if this onnxruntime does not have the provider."""
    if provider in _PLUGINS:
        _register_plugin(ort, provider, _PLUGINS[provider])
    elif provider not in ort.get_available_providers():
        raise BackendError(
            f"onnxruntime {ort.__version__} has no {provider}, it has "
            f"{ort.get_available_providers()}; install the onnxruntime build that has it "
            "(onnxruntime-gpu for cuda and tensorrt) or ask for another provider"
        )


def _register_plugin(ort: Any, provider: str, package: str) -> None:
    try:
        plugin = import_module(package)
    except ImportError:
        raise BackendError(
            f"{provider} has a package of its own; pip install {package.replace('_', '-')}-cu13, "
            "or ask for another provider"
        ) from None
    if provider in _registered:
        return
    try:
        ort.register_execution_provider_library(provider, plugin.get_library_path())
    except Exception as error:
        raise BackendError(
            f"{provider} does not load: {error}; it needs NVIDIA's driver. Install that, or ask "
            "for another provider"
        ) from error
    _registered.add(provider)


class _GraphFiles:
    """A graph and its weights, as ONNX Runtime gets them: from memory or by their paths."""

    def __init__(self, model: ModelFile, *, by_path: bool) -> None:
        self.path = model.path
        self._watched: list[WatchedFile] = []
        self._graph: bytes | None = None
        self._data: dict[str, Content] = {}
        if by_path:
            self._watched = [model.watch()]
            data = external_files(model.path)
        else:
            self._graph = model.read().tobytes()
            data = external_names(self._graph, model.path)
        check_listed(data, model.path, model.files.records or None)
        # ONNX Runtime opens whatever else a graph names, so this comes first.
        if by_path:
            self._watched += [model.files.watch(name) for name in sorted(data)]
        else:
            self._data = {name: model.files.read(name) for name in sorted(data)}

    def source(self, options: Any) -> str | bytes:
        """What a session is made of. ``options``: those of the session, which get the weights."""
        if self._graph is None:
            return str(self.path)
        if self._data:
            contents = list(self._data.values())
            options.add_external_initializers_from_files_in_memory(
                list(self._data), contents, [len(content) for content in contents]
            )
        return self._graph

    def loaded(self) -> _GraphFiles:
        """Itself, once ONNX Runtime has copied what it needs."""
        self._graph, self._data = None, {}
        self.check_unchanged()
        return self

    def check_unchanged(self) -> None:
        """Raises :class:`ArtifactError` if a file that was loaded by its path was changed."""
        for file in self._watched:
            file.check()


def _open_session(
    ort: Any,
    graph: _GraphFiles,
    provider: str,
    provider_options: Mapping[str, Any],
    threads_per_row: int,
    precision: str,
) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; they reach the caller as exceptions
    options.enable_mem_pattern = False  # shapes differ in every run
    if provider == CPU_PROVIDER:
        options.intra_op_num_threads = threads_per_row
        options.inter_op_num_threads = 1
    providers: list[Any] = [(provider, dict(provider_options))]
    if provider == _PROVIDER_NAMES["cuda"]:
        # TF32 keeps 10 bits of a float32, and the head is float32 in every precision.
        providers = [(provider, {"use_tf32": "0", **provider_options})]
    elif provider == _PROVIDER_NAMES["tensorrt"]:
        providers.append((_PROVIDER_NAMES["cuda"], {"use_tf32": "0"}))  # for ops it does not have
    if provider != CPU_PROVIDER:
        providers.append(CPU_PROVIDER)  # a few shape ops stay there whatever the GPU provider
    if provider in _PLUGINS:
        devices = [device for device in ort.get_ep_devices() if device.ep_name == provider]
        if not devices:
            raise BackendError(
                f"{provider} is installed but finds no device; check the GPU's driver, or ask for "
                "provider='cpu'"
            )
        options.add_provider_for_devices(devices[:1], dict(provider_options))
        providers = []
    try:
        session = ort.InferenceSession(graph.source(options), options, providers=providers or None)
    except Exception as error:
        needs_gpu = provider == CPU_PROVIDER and precision in GPU_PRECISIONS
        way_out = (
            f"; the model is in {precision}, which is for GPUs: load it with provider='cuda', or "
            "export the checkpoint for this machine, with --precision fp32"
        )
        raise BackendError(
            f"onnxruntime cannot load {graph.path}: {error}{way_out if needs_gpu else ''}"
        ) from error
    if provider not in session.get_providers():
        raise BackendError(
            f"onnxruntime could not start {provider} and fell back to {session.get_providers()}; "
            "check the driver and CUDA libraries, or ask for provider='cpu'"
        )
    return session
