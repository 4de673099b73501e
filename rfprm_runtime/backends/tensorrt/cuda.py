"""The few CUDA runtime calls that a TensorRT engine needs: memory, copies, streams.

They go through cuda-bindings, NVIDIA's own small package, which needs only the driver. torch would
bring gigabytes for the same calls, and ctypes would have to find a libcudart first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import BackendError, MissingExtraError


class CudaError(BackendError):
    """A call of the CUDA runtime failed; ``name`` is CUDA's name for the error."""

    def __init__(self, call: str, name: str, text: str) -> None:
        self.call, self.name, self.text = call, name, text
        super().__init__(f"{call} failed: {name} ({text})")

    def __reduce__(self) -> tuple[type[CudaError], tuple[str, str, str]]:
        return type(self), (self.call, self.name, self.text)


class Cuda:
    """One device. Addresses and streams are plain integers, as TensorRT takes them."""

    def __init__(self, device: int | None = None) -> None:
        """``device``: its number, by default the calling thread's. Nothing is allocated there
        before :meth:`use`. Raises :class:`MissingExtraError` without the package,
        :class:`BackendError` without such a device."""
        try:
            from cuda.bindings import runtime
        except ImportError:
            raise MissingExtraError(
                "cuda-bindings", "tensorrt-rtx", "running a TensorRT engine"
            ) from None
        self._runtime: Any = runtime
        try:
            count = int(self._call("cudaGetDeviceCount"))
        except CudaError as error:
            raise BackendError(
                f"there is no usable CUDA device: {error.name} ({error.text}); install NVIDIA's "
                "driver (or, for an older driver, the cuda-bindings of its CUDA version), or load "
                "the artifact with another backend"
            ) from None
        if device is None:
            device = int(self._call("cudaGetDevice"))
        if isinstance(device, bool) or not isinstance(device, int) or not 0 <= device < count:
            raise BackendError(
                f"device is {device!r}, expected the number of one of the {count} CUDA device(s)"
            )
        self.device = device

    def use(self) -> None:
        """Make it the calling thread's device, which opens a context there."""
        self._call("cudaSetDevice", self.device)

    @property
    def name(self) -> str:
        properties = self._call("cudaGetDeviceProperties", self.device)
        return bytes(properties.name).split(b"\0")[0].decode()

    @property
    def compute_capability(self) -> str:
        """``9.0``, …"""
        kinds = self._runtime.cudaDeviceAttr
        major, minor = (
            int(self._call("cudaDeviceGetAttribute", kind, self.device))
            for kind in (
                kinds.cudaDevAttrComputeCapabilityMajor,
                kinds.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return f"{major}.{minor}"

    def allocate(self, num_bytes: int) -> int:
        return int(self._call("cudaMalloc", num_bytes))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def create_stream(self) -> int:
        return int(self._call("cudaStreamCreate"))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def copy_in(self, address: int, array: NDArray[Any], stream: int) -> None:
        """Keep ``array`` alive until the stream has been waited for."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def copy_out(self, array: NDArray[np.float32], address: int, stream: int) -> None:
        """``array`` holds the values once the stream has been waited for."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._runtime, name)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            text = self._runtime.cudaGetErrorString(status)[1]
            raise CudaError(name, status.name, text.decode() if isinstance(text, bytes) else text)
        return values[0] if values else None
