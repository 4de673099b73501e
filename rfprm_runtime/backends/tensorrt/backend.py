"""TensorRT engines: loads ``model.plan`` and runs it.

Knows token ids, marker positions, profiles and device memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.build_records import EngineProfile, EngineRecord
from rfprm_runtime.artifact.contents import ArtifactFiles, ModelFile
from rfprm_runtime.artifact.manifest import ONNX_NAME, Manifest
from rfprm_runtime.artifact.onnx_file import check_external_data, external_files
from rfprm_runtime.backends.tensorrt.cuda import Cuda, CudaError
from rfprm_runtime.backends.tensorrt.packages import EXTRAS, load_flavour, make_logger
from rfprm_runtime.engine.rows import BackendLimits, TokenBatch, split_batch
from rfprm_runtime.errors import ArtifactError, BackendError
from rfprm_runtime.ground.arguments import check_flag, check_is, check_whole
from rfprm_runtime.ground.whole_files import replacing_path


class TensorRTBackend:
    """One TensorRT engine and several lanes: execution contexts with their own stream and buffers.

    As many calls run at once as there are lanes, so one can copy while another computes. They run
    in the backend's own threads, because the device is a setting of the thread and the caller's
    must not change. The scores of a trace agree between batches to the rounding of the TensorRT
    engine's precision, not to the bit.
    """

    def __init__(
        self,
        file: Path | ModelFile,
        manifest: Manifest,
        *,
        device: int | None = None,
        num_streams: int = 2,
        max_batch_tokens: int | None = None,
        runtime_cache: Path | str | None = None,
        allow_host_code: bool = False,
    ) -> None:
        """
        ``device``: the number of the CUDA device, by default the calling thread's. ``num_streams``:
        how many lanes; each takes the TensorRT engine's working memory. ``max_batch_tokens``:
        padded tokens of one batch, by default what the largest profile takes. ``runtime_cache``: a
        file that keeps the kernels ``tensorrt_rtx`` compiles for this GPU, for later processes.
        ``allow_host_code``: run the code in a version-compatible plan, from a source that you trust
        like a program.

        Raises :class:`InvalidArgumentError` for an option of the wrong kind,
        :class:`MissingExtraError` without the package that built the TensorRT engine, and
        :class:`BackendError` without a GPU it was built for or if it does not load.
        """
        plan = ModelFile.of(file)
        check_whole("num_streams", num_streams)
        if max_batch_tokens is not None:
            check_whole("max_batch_tokens", max_batch_tokens)
        check_is("runtime_cache", runtime_cache, (str, Path, type(None)), "a path")
        check_flag("allow_host_code", allow_host_code)
        record = engine_record(manifest)
        if record.version_compatible and not allow_host_code:
            raise BackendError(
                f"{plan.path} is version-compatible: it brings code that would run on this machine."
                " If you trust whoever made it, pass allow_host_code=True (--backend-option "
                "allow_host_code=true); otherwise build the TensorRT engine here"
            )
        if record.weights == "stripped":
            check_external_data(plan.files.folder / ONNX_NAME, manifest)
        trt, self._cuda = _usable(record, device)
        self._num_labels = manifest.head.num_labels
        self._profiles = record.profiles
        self._logger = make_logger(trt)
        self._kernels = _CompiledKernels(trt, runtime_cache)
        self._closing = threading.Lock()
        self._why_closed = ""
        # As many threads as lanes, so that a running call always finds a free one.
        self._lanes: queue.LifoQueue[_Lane] = queue.LifoQueue()
        self._workers = ThreadPoolExecutor(num_streams, thread_name_prefix="rfprm-tensorrt")
        try:
            self._engine = self._workers.submit(self._load, trt, plan, record, num_streams).result()
        except BaseException:
            self._workers.shutdown()
            raise
        self.limits = BackendLimits(
            max_batch_size=max(profile.batch.max for profile in self._profiles),
            max_batch_tokens=max_batch_tokens
            or max(profile.batch.max * profile.length.max for profile in self._profiles),
            max_concurrent_runs=num_streams,
        )
        self.description = (
            f"{record.flavour} {trt.__version__}, {manifest.precision}, {self._cuda.name}, "
            f"{num_streams} stream(s)"
        )

    def _load(self, trt: Any, file: ModelFile, record: EngineRecord, num_streams: int) -> Any:
        self._cuda.use()
        engine = _load_engine(trt, self._logger, file, record)
        for _ in range(num_streams):
            context = self._kernels.create_context(engine)
            self._lanes.put(_Lane(context, self._cuda, self._logger))
        return engine

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        parts = list(fitting_parts(batch, self._profiles))
        with self._closing:
            if self._why_closed:
                raise BackendError(self._why_closed)
            running = self._workers.submit(self._run_parts, parts)
        return running.result()

    def _run_parts(self, parts: list[tuple[TokenBatch, int]]) -> NDArray[np.float32]:
        if self._why_closed:  # while this call waited for its turn
            raise BackendError(self._why_closed)
        lane = self._lanes.get()
        try:
            self._cuda.use()
            return np.concatenate(
                [lane.run(part, profile, self._num_labels) for part, profile in parts]
            )
        except CudaError as error:
            if error.name == "cudaErrorMemoryAllocation":
                raise BackendError(
                    f"the GPU is out of memory ({error}); free some, or load with a smaller "
                    "num_streams or max_batch_tokens"
                ) from error
            # After an asynchronous error the device refuses every further call of this process.
            self._why_closed = (
                f"the CUDA device was lost ({error}); load the scorer again in a new process"
            )
            raise BackendError(self._why_closed) from error
        finally:
            self._lanes.put(lane)

    def close(self) -> None:
        with self._closing:
            if self._engine is None:
                return
            self._why_closed = self._why_closed or "the backend was closed; load the scorer again"
            engine, self._engine = self._engine, None
        self._workers.shutdown()  # waits for running calls; queued ones are refused
        with ThreadPoolExecutor(1) as last:
            last.submit(self._free).result()
        del engine  # after its contexts

    def _free(self) -> None:
        try:
            with suppress(CudaError):  # a lost device frees its memory with the process
                self._cuda.use()
                self._kernels.save()
        finally:  # even if the cache of kernels cannot be written
            while not self._lanes.empty():
                self._lanes.get().close()


class _CompiledKernels:
    """The kernels ``tensorrt_rtx`` compiles on the device; ``tensorrt`` compiled its own before."""

    def __init__(self, trt: Any, path: Path | str | None) -> None:
        self._trt = trt
        self._path = None if path is None else Path(path)
        self._config: Any = None
        self._cache: Any = None

    def create_context(self, engine: Any) -> Any:
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return engine.create_execution_context()
        if self._config is None:
            self._config = engine.create_runtime_config()
            # Batches hardly ever have the same shape: a kernel made for each would mean compiling
            # for ever, and bits that change when one is ready.
            self._config.dynamic_shapes_kernel_specialization_strategy = strategies.NONE
            self._cache = self._config.create_runtime_cache()
            if self._path is not None and self._path.is_file():
                self._cache.deserialize(self._path.read_bytes())
            self._config.set_runtime_cache(self._cache)
        return engine.create_execution_context(self._config)

    def save(self) -> None:
        if self._path is not None and self._cache is not None:
            with replacing_path(self._path) as partial:
                partial.write_bytes(bytes(self._cache.serialize()))


class _Lane:
    """One execution context, used by one thread at a time."""

    def __init__(self, context: Any, cuda: Cuda, logger: Any) -> None:
        self._cuda, self._logger = cuda, logger
        self._context = context
        if self._context is None:
            raise BackendError(
                f"TensorRT could not create an execution context: {logger.last_errors}; if it is "
                "out of memory, pass a smaller num_streams or build with smaller profiles"
            )
        self._stream = cuda.create_stream()
        self._buffers: dict[str, tuple[int, int]] = {}  # name → address, bytes
        self._profile = -1

    def run(self, batch: TokenBatch, profile: int, num_labels: int) -> NDArray[np.float32]:
        cuda, context, stream = self._cuda, self._context, self._stream
        if profile != self._profile:
            if not context.set_optimization_profile_async(profile, stream):
                raise self._failure(batch)
            self._profile = profile
        logits = np.empty((len(batch.marker_positions), num_labels), np.float32)
        inputs = {
            "token_ids": np.ascontiguousarray(batch.token_ids, np.int64),
            "marker_positions": np.ascontiguousarray(batch.marker_positions, np.int64),
        }
        for name, array in inputs.items():
            cuda.copy_in(self._bind(name, array.nbytes), array, stream)
            if not context.set_input_shape(name, array.shape):
                raise self._failure(batch)
        address = self._bind("logits", logits.nbytes)
        if not context.execute_async_v3(stream):
            raise self._failure(batch)
        cuda.copy_out(logits, address, stream)
        cuda.wait(stream)
        return logits

    def _bind(self, name: str, num_bytes: int) -> int:
        """A device buffer of at least ``num_bytes``, kept for the next calls."""
        address, size = self._buffers.get(name, (0, 0))
        if size < num_bytes:
            if address:
                self._cuda.free(address)
                del self._buffers[name]
            size = 1 << (num_bytes - 1).bit_length()  # grows a few times, then never again
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
        if not self._context.set_tensor_address(name, address):
            raise BackendError(
                f"the TensorRT engine has no tensor {name!r}: {self._logger.last_errors}; build it "
                "again"
            )
        return address

    def _failure(self, batch: TokenBatch) -> BackendError:
        return BackendError(
            f"TensorRT failed on a batch of {batch.token_ids.shape} token ids and "
            f"{len(batch.marker_positions)} markers: {self._logger.last_errors}"
        )

    def close(self) -> None:
        self._context = None
        with suppress(CudaError):  # a lost device frees its memory with the process
            for address, _ in self._buffers.values():
                self._cuda.free(address)
            self._cuda.destroy_stream(self._stream)
        self._buffers.clear()


def fitting_parts(
    batch: TokenBatch, profiles: Sequence[EngineProfile]
) -> Iterator[tuple[TokenBatch, int]]:
    """``batch``, halved by rows until each part fits a profile, with the profile's number.

    If several fit, it is the one optimised for the nearest size. Raises :class:`BackendError` if a
    single row fits none.
    """
    size, length = batch.token_ids.shape
    num_markers = len(batch.marker_positions)
    fitting = [
        (abs(np.log(size * length / (profile.batch.opt * profile.length.opt))), number)
        for number, profile in enumerate(profiles)
        if profile.takes(size, length, num_markers)
    ]
    if fitting:
        yield batch, min(fitting)[1]
    elif size > 1:
        for part in split_batch(batch, size // 2):
            yield from fitting_parts(part, profiles)
    else:
        taken = [
            f"{profile.length.min} to {profile.length.max} tokens with {profile.num_markers.min} "
            f"to {profile.num_markers.max} markers"
            for profile in profiles
        ]
        raise BackendError(
            f"a row of {length} tokens with {num_markers} markers fits no profile of the TensorRT "
            f"engine, which takes {'; '.join(taken)}; build it with a --profile for such rows"
        )


def engine_record(manifest: Manifest) -> EngineRecord:
    if manifest.engine is None:
        raise ArtifactError(
            "the artifact has no TensorRT engine; build one with python export/to_trt.py ARTIFACT "
            "-o NEW"
        )
    return manifest.engine


def check_usable(manifest: Manifest, device: int | None = None) -> None:
    """Raises what loading the manifest's TensorRT engine would raise on this machine."""
    _usable(engine_record(manifest), device)


def _usable(record: EngineRecord, device: int | None) -> tuple[Any, Cuda]:
    trt = load_flavour(record.flavour, "this artifact's engine")
    check_version(record, str(trt.__version__))
    cuda = Cuda(device)
    check_capability(record, cuda.compute_capability)
    return trt, cuda


def check_version(record: EngineRecord, installed: str) -> None:
    """Raises :class:`BackendError` if the installed package cannot read the plan."""
    built = _version_key(record.version)
    if installed == record.version or (
        record.version_compatible and _version_key(installed) >= built
    ):
        return
    raise BackendError(
        f"the TensorRT engine was built by {record.flavour} {record.version} and does not run on "
        f"the installed {installed}; pip install {EXTRAS[record.flavour].replace('-', '_')}"
        f"=={record.version}, or build it again with python export/to_trt.py"
    )


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def check_capability(record: EngineRecord, capability: str) -> None:
    """Raises :class:`BackendError` if the plan is not for a GPU of this compute capability."""
    built_for = record.compute_capabilities
    if capability in built_for and record.hardware_compatibility != "ampere_plus":
        return
    if record.hardware_compatibility == "ampere_plus" and _version_key(capability) >= (8, 0):
        return
    kind = "8.0 and later" if record.hardware_compatibility == "ampere_plus" else built_for
    raise BackendError(
        f"this GPU has compute capability {capability}, the TensorRT engine was built for {kind}; "
        "build it for this one with python export/to_trt.py"
    )


def _load_engine(trt: Any, logger: Any, file: ModelFile, record: EngineRecord) -> Any:
    runtime = trt.Runtime(logger)
    if record.version_compatible:
        # The plan brings the runtime it was built with; the caller has allowed it.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None:
        raise BackendError(
            f"{record.flavour} cannot load {file.path}: {logger.last_errors}; build it again with "
            "python export/to_trt.py"
        )
    if record.weights == "stripped":
        _refit(trt, logger, engine, file.files)
    return engine


def _refit(trt: Any, logger: Any, engine: Any, files: ArtifactFiles) -> None:
    """Give a stripped plan the weights of the graph beside it."""
    graph = files.folder / ONNX_NAME
    # TensorRT reads them by their paths, and keeps none open afterwards.
    watched = [files.watch(name) for name in (ONNX_NAME, *external_files(graph))]
    refitter = trt.Refitter(engine, logger)
    if not (
        trt.OnnxParserRefitter(refitter, logger).refit_from_file(str(graph))
        and refitter.refit_cuda_engine()
    ):
        raise BackendError(
            f"the TensorRT engine does not take the weights of {graph}: {logger.last_errors}; "
            "build it again"
        )
    for file in watched:
        file.check()
