"""TensorRT engines: loads ``model.plan`` and runs it.

Knows token ids, marker positions, profiles and device memory.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.backends.cuda import Cuda, CudaError
from rfprm_runtime.backends.flavours import EXTRAS, load_flavour, make_logger
from rfprm_runtime.batching import BackendLimits, TokenBatch, split_batch
from rfprm_runtime.errors import ArtifactError, BackendError
from rfprm_runtime.manifest import EngineProfile, EngineRecord, Manifest


class TensorRTBackend:
    """One engine, several lanes: an execution context with a stream and buffers of its own.

    As many calls run at once as there are lanes, so that one copies while another computes. Scores
    of a trace agree between batches to the rounding of the engine's precision, not to the bit.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        *,
        device: int = 0,
        num_streams: int = 2,
        max_batch_tokens: int | None = None,
    ) -> None:
        """
        ``device``: the number of the CUDA device. ``num_streams``: lanes; each takes the engine's
        working memory. ``max_batch_tokens``: padded tokens of one batch; by default what the
        largest profile takes.

        Raises :class:`MissingExtraError` without the package that built the engine,
        :class:`BackendError` without a GPU that it was built for and where it does not load.
        """
        if num_streams < 1:
            raise BackendError(f"num_streams is {num_streams}, expected at least 1")
        record = engine_record(manifest)
        trt, self._cuda = _usable(record, device)
        self._num_labels = manifest.head.num_labels
        self._profiles = record.profiles
        self._logger = make_logger(trt)
        self._engine = _load_engine(trt, self._logger, path, record)
        # A context lives as long as its engine and no longer.
        self._lanes: queue.LifoQueue[_Lane | None] = queue.LifoQueue()
        for _ in range(num_streams):
            self._lanes.put(_Lane(self._engine, self._cuda, self._logger))
        self._num_lanes = num_streams
        self._why_closed = ""
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

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        parts = list(fitting_parts(batch, self._profiles))
        with self._lane() as lane:
            logits = [lane.run(part, profile, self._num_labels) for part, profile in parts]
        return np.concatenate(logits)

    @contextmanager
    def _lane(self) -> Iterator[_Lane]:
        if self._why_closed:
            raise BackendError(self._why_closed)
        lane = self._lanes.get()
        if lane is None:  # closed while this call waited; so may others
            self._lanes.put(None)
            raise BackendError(self._why_closed)
        try:
            self._cuda.use()
            yield lane
        except CudaError as error:
            # After an asynchronous error the device refuses every further call of this process.
            self._why_closed = (
                f"the CUDA device was lost ({error}); load the scorer again in a new process"
            )
            raise BackendError(self._why_closed) from error
        finally:
            self._lanes.put(lane)

    def close(self) -> None:
        if self._engine is None:
            return
        self._why_closed = self._why_closed or "the backend was closed; load the scorer again"
        for _ in range(self._num_lanes):
            lane = self._lanes.get()  # waits for the ones that run
            if lane is not None:
                lane.close()
        self._engine = None
        self._lanes.put(None)


class _Lane:
    """One execution context. Used by one thread at a time."""

    def __init__(self, engine: Any, cuda: Cuda, logger: Any) -> None:
        self._cuda, self._logger = cuda, logger
        self._context = engine.create_execution_context()
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
            size = 1 << (num_bytes - 1).bit_length()  # grows a few times and then no more
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
        if not self._context.set_tensor_address(name, address):
            raise BackendError(
                f"the engine has no tensor {name!r}: {self._logger.last_errors}; build it again"
            )
        return address

    def _failure(self, batch: TokenBatch) -> BackendError:
        return BackendError(
            f"TensorRT failed on a batch of {batch.token_ids.shape} token ids and "
            f"{len(batch.marker_positions)} markers: {self._logger.last_errors}"
        )

    def close(self) -> None:
        self._context = None
        try:
            for address, _ in self._buffers.values():
                self._cuda.free(address)
            self._cuda.destroy_stream(self._stream)
        except CudaError:
            pass  # a lost device frees its memory with the process
        self._buffers.clear()


def fitting_parts(
    batch: TokenBatch, profiles: Sequence[EngineProfile]
) -> Iterator[tuple[TokenBatch, int]]:
    """``batch``, halved by rows until each part fits a profile, with the profile's number.

    Of several that fit, the one made for the sizes nearest to it. Raises :class:`BackendError`
    where a single row fits none.
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
        raise BackendError(
            f"a row of {length} tokens with {num_markers} markers fits no profile of the engine; "
            f"its longest takes {max(profile.length.max for profile in profiles)} tokens; build it "
            "with a larger --profile"
        )


def engine_record(manifest: Manifest) -> EngineRecord:
    if manifest.engine is None:
        raise ArtifactError(
            "the artifact has no engine; build one with python export/to_trt.py ARTIFACT -o NEW"
        )
    return manifest.engine


def check_usable(manifest: Manifest, device: int = 0) -> None:
    """Raises what loading the engine of ``manifest`` would raise on this machine."""
    _usable(engine_record(manifest), device)


def _usable(record: EngineRecord, device: int) -> tuple[Any, Cuda]:
    trt = load_flavour(record.flavour, "this artifact's engine")
    check_version(record, str(trt.__version__))
    cuda = Cuda(device)
    check_capability(record, cuda.compute_capability)
    return trt, cuda


def check_version(record: EngineRecord, installed: str) -> None:
    """Raises :class:`BackendError` where the installed package cannot read the plan."""
    built = _version_key(record.version)
    if installed == record.version or (
        record.version_compatible and _version_key(installed) >= built
    ):
        return
    raise BackendError(
        f"the engine was built by {record.flavour} {record.version}, installed is {installed}, and "
        f"a plan is for one version; pip install {EXTRAS[record.flavour].replace('-', '_')}"
        f"=={record.version}, or build it again with python export/to_trt.py"
    )


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def check_capability(record: EngineRecord, capability: str) -> None:
    """Raises :class:`BackendError` where the plan is not for a GPU of this compute capability."""
    built_for = record.compute_capabilities
    if capability in built_for and record.hardware_compatibility != "ampere_plus":
        return
    if record.hardware_compatibility == "ampere_plus" and _version_key(capability) >= (8, 0):
        return
    kind = "8.0 and later" if record.hardware_compatibility == "ampere_plus" else built_for
    raise BackendError(
        f"this GPU has compute capability {capability}, the engine was built for {kind}; build it "
        "for this one with python export/to_trt.py"
    )


def _load_engine(trt: Any, logger: Any, path: Path, record: EngineRecord) -> Any:
    engine = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BackendError(
            f"{record.flavour} cannot load {path}: {logger.last_errors}; build it again with "
            "python export/to_trt.py"
        )
    if record.weights == "stripped":
        _refit(trt, logger, engine, path.with_name("model.onnx"))
    return engine


def _refit(trt: Any, logger: Any, engine: Any, graph: Path) -> None:
    """Give a stripped plan the weights of ``graph``."""
    refitter = trt.Refitter(engine, logger)
    if not (
        trt.OnnxParserRefitter(refitter, logger).refit_from_file(str(graph))
        and refitter.refit_cuda_engine()
    ):
        raise BackendError(
            f"the engine does not take the weights of {graph}: {logger.last_errors}; build it again"
        )
