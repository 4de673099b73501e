"""ONNX Runtime: loads ``model.onnx`` and runs it, one row a call on a CPU.

Knows token ids, marker positions and execution providers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.batching import BackendLimits, TokenBatch
from rfprm_runtime.cores import usable_cores
from rfprm_runtime.errors import BackendError
from rfprm_runtime.manifest import Manifest

CPU_PROVIDER = "CPUExecutionProvider"
_PROVIDER_NAMES = {"cpu": CPU_PROVIDER, "cuda": "CUDAExecutionProvider"}


class OnnxBackend:
    """One session, shared by all threads.

    On a CPU every row is a call of its own: nothing is padded, and a row's bits cannot depend on
    its neighbours. By default it runs on one core and as many run at once as there are cores, which
    brings more in all; ``threads_per_row`` gives a row more of them, for latency.
    """

    def __init__(
        self,
        model_path: Path,
        manifest: Manifest,
        *,
        provider: str = "cpu",
        num_threads: int | None = None,
        threads_per_row: int = 1,
        max_batch_tokens: int = 16_384,
    ) -> None:
        """
        ``provider``: ``cpu``, ``cuda`` or an ONNX Runtime provider name. It is used or an error
        is raised; there is no fallback. ``num_threads``: cores to use of a CPU, all usable ones by
        default; ``threads_per_row`` (at most as many) of them run one row together.
        ``max_batch_tokens``: padded tokens of one batch on a GPU.

        Raises :class:`BackendError` where the provider is not available or the model does not
        load.
        """
        import onnxruntime as ort

        provider = _PROVIDER_NAMES.get(provider, provider)
        if provider not in ort.get_available_providers():
            raise BackendError(
                f"onnxruntime {ort.__version__} has no {provider}, it has "
                f"{ort.get_available_providers()}; install the onnxruntime build that has it "
                "(onnxruntime-gpu for cuda) or ask for another provider"
            )
        on_cpu = provider == CPU_PROVIDER
        threads = usable_cores(num_threads) if on_cpu else 1
        per_row = max(1, min(threads_per_row, threads))
        self.limits = (
            BackendLimits(max_batch_size=1, max_concurrent_runs=threads // per_row)
            if on_cpu
            else BackendLimits(max_batch_size=256, max_batch_tokens=max_batch_tokens)
        )
        self.description = f"onnxruntime {ort.__version__}, {provider}, {threads} thread(s)"
        self._num_labels = manifest.head.num_labels
        self._session = _open_session(ort, model_path, provider, per_row)
        self._input_names = [item.name for item in self._session.get_inputs()]

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        if self._session is None:
            raise BackendError("the backend was closed; load the scorer again")
        feeds = {
            "token_ids": batch.token_ids,
            "lengths": batch.lengths,
            "marker_positions": batch.marker_positions,
        }
        try:
            outputs = self._session.run(
                ["logits"], {name: feeds[name] for name in self._input_names}
            )
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise BackendError(
                f"onnxruntime failed on a batch of {batch.token_ids.shape} token ids: {error}"
            ) from error
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


def _open_session(ort: Any, model_path: Path, provider: str, threads_per_row: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only; they reach the caller as exceptions
    options.enable_mem_pattern = False  # shapes differ in every run
    if provider == CPU_PROVIDER:
        options.intra_op_num_threads = threads_per_row
        options.inter_op_num_threads = 1
    providers: Sequence[str] = (
        [provider] if provider == CPU_PROVIDER else [provider, CPU_PROVIDER]
    )  # a few shape ops stay on the CPU beside any GPU provider
    try:
        session = ort.InferenceSession(str(model_path), options, providers=providers)
    except Exception as error:
        raise BackendError(f"onnxruntime cannot load {model_path}: {error}") from error
    if provider not in session.get_providers():
        raise BackendError(
            f"onnxruntime could not start {provider} and fell back to {session.get_providers()}; "
            "check the driver and CUDA libraries, or ask for provider='cpu'"
        )
    return session
