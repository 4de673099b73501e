"""A GPU made of host memory: engines run by ONNX Runtime, addresses are real, streams are numbers.

What of the TensorRT backend is ours (profiles, buffers, lanes, errors) runs as it does on a GPU. A
plan is the path of the graph that it was made of.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from rfprm_runtime.artifact.build_records import EngineProfile, EngineRecord, Range
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.backends.tensorrt.cuda import CudaError

VERSION = "10.16.1"


class SimulatedCuda:
    """Stands for :class:`rfprm_runtime.backends.tensorrt.cuda.Cuda`."""

    name = "simulated"
    compute_capability = "8.9"

    def __init__(self) -> None:
        self.device: int | None = None
        self.used_by: set[int] = set()
        """Threads whose device it was made."""
        self.error_name = "cudaErrorIllegalAddress"
        self.memory: dict[int, Any] = {}
        self.num_allocations = 0
        self.num_streams = 0
        self.lose_at: str | None = None
        self._lock = threading.Lock()

    def use(self) -> None:
        self.used_by.add(threading.get_ident())

    def allocate(self, num_bytes: int) -> int:
        self._may_fail("cudaMalloc")
        block = ctypes.create_string_buffer(num_bytes)
        address = ctypes.addressof(block)
        with self._lock:
            self.memory[address] = block
            self.num_allocations += 1
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def create_stream(self) -> int:
        self.num_streams += 1
        return self.num_streams

    def destroy_stream(self, stream: int) -> None:
        self.num_streams -= 1

    def wait(self, stream: int) -> None:
        self._may_fail("cudaStreamSynchronize")

    def copy_in(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.nbytes <= len(self.memory[address])
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.nbytes <= len(self.memory[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def _may_fail(self, call: str) -> None:
        if self.lose_at == call:
            raise CudaError(call, self.error_name, "as told")


class SimulatedTensorRT:
    """Stands for the module ``tensorrt``, or with :meth:`compile_on_the_device` its sibling."""

    __version__ = VERSION

    def __init__(self, profiles: tuple[EngineProfile, ...]) -> None:
        self.profiles = profiles
        self.contexts: list[_Context] = []
        self.refitted_from: list[str] = []
        self.cache_read = b""
        module = self

        class ILogger:
            pass

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, plan: np.ndarray) -> Any:
                return _Engine(module, Path(plan.tobytes().decode()), self.logger)

        class Refitter:
            def __init__(self, engine: Any, logger: Any) -> None:
                pass

            def refit_cuda_engine(self) -> bool:
                return True

        class OnnxParserRefitter:
            def __init__(self, refitter: Any, logger: Any) -> None:
                pass

            def refit_from_file(self, path: str) -> bool:
                module.refitted_from.append(path)
                return True

        self.ILogger, self.Runtime = ILogger, Runtime
        self.Refitter, self.OnnxParserRefitter = Refitter, OnnxParserRefitter

    def compile_on_the_device(self) -> None:
        class Strategy:
            NONE = "NONE"

        self.DynamicShapesKernelSpecializationStrategy = Strategy


class _Engine:
    def __init__(self, module: SimulatedTensorRT, graph: Path, logger: Any) -> None:
        self.module, self.logger = module, logger
        self.session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig(self.module)

    def create_execution_context(self, config: Any = None) -> _Context:
        context = _Context(self)
        self.module.contexts.append(context)
        return context


class _RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = "LAZY"

    def __init__(self, module: SimulatedTensorRT) -> None:
        module.cache_read = b""
        self.module = module

    def create_runtime_cache(self) -> _RuntimeConfig:
        return self

    def deserialize(self, content: bytes) -> None:
        self.module.cache_read = content

    def serialize(self) -> bytes:
        return b"kernels"

    def set_runtime_cache(self, cache: Any) -> None:
        assert self.dynamic_shapes_kernel_specialization_strategy == "NONE"


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.profile = 0
        self.profiles_used: list[int] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self._running = threading.Lock()

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in ("token_ids", "marker_positions", "logits")

    def execute_async_v3(self, stream: int) -> bool:
        assert self._running.acquire(blocking=False), "one context in two threads at once"
        try:
            (batch, length), (markers,) = (
                self.shapes["token_ids"],
                self.shapes["marker_positions"],
            )
            assert self.engine.module.profiles[self.profile].takes(batch, length, markers)
            self.profiles_used.append(self.profile)
            feeds = {name: self._read(name) for name in ("token_ids", "marker_positions")}
            logits = self.engine.session.run(["logits"], feeds)[0]
            ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
            return True
        finally:
            self._running.release()

    def _read(self, name: str) -> np.ndarray:
        shape = self.shapes[name]
        buffer = (ctypes.c_int64 * int(np.prod(shape))).from_address(self.addresses[name])
        return np.ctypeslib.as_array(buffer).reshape(shape).copy()


def small_profile(max_batch: int, max_length: int) -> EngineProfile:
    return EngineProfile(
        batch=Range(min=1, opt=max_batch, max=max_batch),
        length=Range(min=1, opt=max_length, max=max_length),
        num_markers=Range(min=1, opt=1, max=max_batch * max_length),
    )


def with_engine(
    manifest: Manifest, profiles: tuple[EngineProfile, ...], **changes: Any
) -> Manifest:
    """``manifest`` of an artifact whose ``model.plan`` was built for the simulated GPU."""
    fields: dict[str, Any] = {
        "flavour": "tensorrt",
        "version": VERSION,
        "compute_capabilities": ("8.9",),
        "profiles": profiles,
        "graph_sha256": "0" * 64,
        "build_seconds": 1.0,
        "peak_host_bytes": 1,
    }
    return manifest.model_copy(update={"engine": EngineRecord(**{**fields, **changes})})


@pytest.fixture
def simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the simulated package and device in the place of the real ones: call it with the
    profiles; returns both."""

    def install(profiles: tuple[EngineProfile, ...]) -> tuple[SimulatedTensorRT, SimulatedCuda]:
        trt, cuda = SimulatedTensorRT(profiles), SimulatedCuda()
        backend = "rfprm_runtime.backends.tensorrt.backend"
        monkeypatch.setattr(f"{backend}.load_flavour", lambda name, purpose: trt)

        def device_of(device: int | None) -> SimulatedCuda:
            cuda.device = device
            return cuda

        monkeypatch.setattr(f"{backend}.Cuda", device_of)
        return trt, cuda

    return install
